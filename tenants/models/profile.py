"""What somebody who signs in wants: where they are, and whether they are written to."""

from zoneinfo import ZoneInfo

from django.conf import settings
from django.contrib.auth.models import User
from django.db import models

from tenants.models.tenant import validate_time_zone


class Profile(models.Model):
    """Of one user; who has none wants what is set nowhere: no mail, and the zone of the first tenant."""

    user = models.OneToOneField(
        settings.AUTH_USER_MODEL, primary_key=True, on_delete=models.CASCADE, related_name="profile"
    )
    time_zone = models.CharField(
        max_length=64, blank=True, validators=[validate_time_zone], help_text="IANA name. Empty: the tenant's."
    )
    weekly_since = models.DateTimeField(
        "weekly summary since", null=True, blank=True, help_text="Empty: none is sent. It goes to the user's address."
    )

    def __str__(self) -> str:
        return f"profile of {self.user}"


def profile_of(user: User) -> Profile:
    """The user's own, or one that is not stored yet."""
    return Profile.objects.filter(user=user).first() or Profile(user=user)


def zone_of(user: User) -> ZoneInfo:
    """The zone that the user chose, else that of the first tenant they are a member of, else the installation's."""
    chosen = profile_of(user).time_zone
    if not chosen and (tenant := user.tenants.filter(archived_at=None).order_by("pk").first()):
        chosen = tenant.time_zone
    return ZoneInfo(chosen or settings.TIME_ZONE)
