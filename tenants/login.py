"""The sign-in forms, of the admin and of the managers' pages: a password, and a code for who set up two-factor.

django-axes locks guessing of passwords out; the devices themselves slow guessing of codes down.
"""

from typing import Any

from django import forms
from django.contrib.auth.forms import AuthenticationForm
from django.contrib.auth.models import AbstractBaseUser
from django.core.exceptions import ValidationError
from django.db import transaction
from django_otp import devices_for_user, user_has_device
from django_otp.models import Device
from django_otp.plugins.otp_static.models import StaticDevice
from django_otp.plugins.otp_totp.models import TOTPDevice
from unfold.forms import AuthenticationForm as AdminAuthenticationForm
from unfold.widgets import INPUT_CLASSES

CODE_HELP = "Only if you set up two-factor sign-in: the six digits, or a recovery code."
CODE_WRONG = "This account uses two-factor sign-in: a current code from its app, or a recovery code, is needed too."


class SecondFactor:
    """Mixed into an authentication form: asks for a code, and wants one of who has a device."""

    needs_code = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        attrs = {"autocomplete": "one-time-code", "class": " ".join(INPUT_CLASSES)}
        self.fields: dict[str, forms.Field]
        self.fields["code"] = forms.CharField(
            required=False, max_length=32, help_text=CODE_HELP, widget=forms.TextInput(attrs)
        )

    def confirm_login_allowed(self, user: AbstractBaseUser) -> None:
        super().confirm_login_allowed(user)  # type: ignore[misc]
        if not user_has_device(user):
            return
        code = str(self.cleaned_data.get("code", "")).replace(" ", "")  # type: ignore[attr-defined]
        device = verified_device(user, code)
        if device is None:
            self.needs_code = True
            raise ValidationError(CODE_WRONG, code="invalid_code")
        user.otp_device = device  # type: ignore[attr-defined]


class SignInForm(SecondFactor, AuthenticationForm):
    """For everybody with a login."""


class AdminSignInForm(SecondFactor, AdminAuthenticationForm):
    """For staff."""


@transaction.atomic
def verified_device(user: AbstractBaseUser, code: str) -> Device | None:
    """The user's device that `code` is of, its throttling kept.

    Digits are tried on apps only, anything else on recovery codes only: a wrong try of one must not
    slow the other down.
    """
    kind = TOTPDevice if code.isdigit() else StaticDevice
    for device in devices_for_user(user, for_verify=True):
        if isinstance(device, kind) and device.verify_is_allowed()[0] and device.verify_token(code):
            return device
    return None
