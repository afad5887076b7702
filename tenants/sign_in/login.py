"""The sign-in forms, of the admin and of the managers' pages: a password, and a code for who set up two-factor.

django-axes locks guessing of passwords out; the devices themselves slow guessing of codes down.
"""

from typing import Any

from axes.models import AccessAttempt
from django import forms
from django.conf import settings
from django.contrib.auth.forms import AuthenticationForm
from django.contrib.auth.models import AbstractBaseUser
from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import OuterRef, QuerySet, Subquery, Sum, Value
from django.db.models.functions import Coalesce
from django.utils import timezone
from django_otp import devices_for_user, user_has_device
from django_otp.models import Device
from django_otp.plugins.otp_static.models import StaticDevice
from django_otp.plugins.otp_totp.models import TOTPDevice
from unfold.forms import AuthenticationForm as AdminAuthenticationForm
from unfold.widgets import INPUT_CLASSES

from tenants.trail import note_unlock

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
    slow the other down. No code is no try: who is asked for one may type it at once.
    """
    if not code:
        return None
    kind = TOTPDevice if code.isdigit() else StaticDevice
    for device in devices_for_user(user, for_verify=True):
        if isinstance(device, kind) and device.verify_is_allowed()[0] and device.verify_token(code):
            return device
    return None


def with_tries(attempts: QuerySet[AccessAttempt]) -> QuerySet[AccessAttempt]:
    """With `tries`: the wrong ones that still count against their name at their address, from whatever browser."""
    counted = AccessAttempt.objects.filter(
        username=OuterRef("username"),
        ip_address=OuterRef("ip_address"),
        attempt_time__gte=timezone.now() - settings.AXES_COOLOFF_TIME,
    )
    sums = counted.order_by().values("username", "ip_address").annotate(tries=Sum("failures_since_start"))
    return attempts.annotate(tries=Coalesce(Subquery(sums.values("tries")), Value(0)))


@transaction.atomic
def unlock(attempt: AccessAttempt) -> None:
    """Let the name in again from the address, and say so in the audit trail."""
    note_unlock(attempt, f"{attempt.username} from {attempt.ip_address}")
    AccessAttempt.objects.filter(username=attempt.username, ip_address=attempt.ip_address).delete()
