"""Two-factor sign-in, set up by each for themselves: an app that shows six digits, and recovery codes."""

from base64 import b32encode
from typing import Any

import segno
from django import forms
from django.contrib import admin
from django.contrib.auth.models import User
from django.contrib.messages import success
from django.core.exceptions import ValidationError
from django.db import transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.utils.safestring import mark_safe
from django_otp.plugins.otp_static.models import StaticDevice, StaticToken
from django_otp.plugins.otp_totp.models import TOTPDevice
from unfold.widgets import UnfoldAdminTextInputWidget

from tenants.sign_in.login import verified_device

RECOVERY_CODES = 8
TEMPLATE = "tenants/second_factor.html"


class CodeForm(forms.Form):
    code = forms.CharField(
        label="Code",
        max_length=32,
        widget=UnfoldAdminTextInputWidget({"autocomplete": "one-time-code", "inputmode": "numeric"}),
    )


def second_factor(request: HttpRequest) -> HttpResponse:
    """Shows what there is; a POST with a right code turns two-factor on, or off again."""
    user = request.user
    assert isinstance(user, User)  # noqa: S101  the admin lets nobody else in
    device = TOTPDevice.objects.filter(user=user, confirmed=True).first()
    form = CodeForm(request.POST or None)
    if device is not None:
        return _turn_off(request, user, form)
    return _turn_on(request, user, form)


def _turn_on(request: HttpRequest, user: User, form: CodeForm) -> HttpResponse:
    device, _ = TOTPDevice.objects.get_or_create(user=user, confirmed=False, defaults={"name": "app"})
    if form.is_valid():
        if device.verify_token(form.cleaned_data["code"].replace(" ", "")):
            return _page(request, recovery_codes=_confirm(device))
        form.add_error("code", ValidationError("This is not the code that the app shows now."))
    qr = mark_safe(segno.make(device.config_url).svg_inline(light="#fff", omitsize=True))  # noqa: S308  drawn here
    return _page(request, form=form, qr=qr, key=b32encode(device.bin_key).decode())


@transaction.atomic
def _confirm(device: TOTPDevice) -> list[str]:
    """The device counts from now on. Returns the recovery codes, which are shown once."""
    device.confirmed = True
    device.save()
    StaticDevice.objects.filter(user=device.user).delete()
    recovery = StaticDevice.objects.create(user=device.user, name="recovery codes")
    codes = [StaticToken.random_token() for _ in range(RECOVERY_CODES)]
    for code in codes:
        recovery.token_set.create(token=code)
    return codes


def _turn_off(request: HttpRequest, user: User, form: CodeForm) -> HttpResponse:
    if form.is_valid():
        if verified_device(user, form.cleaned_data["code"].replace(" ", "")):
            TOTPDevice.objects.filter(user=user).delete()
            StaticDevice.objects.filter(user=user).delete()
            success(request, "Two-factor sign-in is off.")
            return HttpResponseRedirect(reverse("admin:second_factor"))
        form.add_error("code", ValidationError("This code is not right, or there were too many tries."))
    return _page(request, form=form, is_on=True)


def _page(request: HttpRequest, **context: Any) -> HttpResponse:
    page = {**admin.site.each_context(request), "title": "Two-factor sign-in", "form": None, **context}
    return render(request, TEMPLATE, page)
