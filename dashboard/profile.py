"""The page on which who has signed in says what they want: their time zone, and a mail a week."""

from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods

from spend.page_access import strict
from tenants.models import Profile, profile_of, time_zones, zone_of


class ProfileForm(forms.Form):
    time_zone = forms.ChoiceField(
        label="Time zone", required=False, help_text="Of the weekly summary. A tenant's own pages stay in the tenant's."
    )
    weekly = forms.BooleanField(label="Send me a summary of each week, on Monday at 8:00", required=False)

    def __init__(self, data: Any, *, profile: Profile) -> None:
        super().__init__(data, initial={"time_zone": profile.time_zone, "weekly": profile.weekly_since is not None})
        self.profile = profile
        zones = [(name, name) for name in sorted(time_zones())]
        self.fields["time_zone"].choices = [("", "That of my first tenant"), *zones]  # type: ignore[attr-defined]

    def save(self) -> None:
        wanted = self.cleaned_data
        self.profile.time_zone = wanted["time_zone"]
        self.profile.weekly_since = (self.profile.weekly_since or timezone.now()) if wanted["weekly"] else None
        self.profile.save()


@strict
@never_cache
@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def profile(request: HttpRequest) -> HttpResponse:
    user = request.user
    assert isinstance(user, User)  # noqa: S101
    form = ProfileForm(request.POST or None, profile=profile_of(user))
    if request.method == "POST" and form.is_valid():
        form.save()
        messages.success(request, "Saved.")
        return redirect("profile")
    return render(request, "dashboard/profile.html", {"form": form, "nav": "profile", "zone": zone_of(user)})
