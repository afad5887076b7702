"""What was told, whether it arrived, and where it is told."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, ClassVar

from django.contrib import admin
from django.contrib.messages import success
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from unfold.decorators import action, display
from unfold.paginator import InfinitePaginator
from unfold.views import ChangeList

from spend.alerts.channels import UndeliveredError, send, subject_of, text_of, zones_of
from spend.alerts.deliveries import resend
from spend.models import Alert, AlertKind, Delivery
from tenants.admin import ReadOnly, ShowsUsd, back_to
from tenants.admin.declared_filters import ModelAdmin
from tenants.admin.forms import ConfirmForm
from tenants.models import AlertChannel, Scope
from tenants.money import TICKS_PER_USD
from tenants.periods import Period

STATE_COLOURS = {"pending": "warning", "delivered": "success", "failed": "danger"}


class TestForm(ConfirmForm):
    """Nothing to fill in. What goes wrong is said where the user asked for it."""

    def clean(self) -> dict[str, Any]:
        channel = AlertChannel.objects.get(pk=self.object_id)
        try:
            send(test_alert(channel, timezone.now()), channel, 0)
        except UndeliveredError as undelivered:
            raise ValidationError(f"It did not arrive: {undelivered}.") from None
        return self.cleaned_data


def test_alert(channel: AlertChannel, now: datetime) -> Alert:
    """As channels are told, of a budget and of amounts that nobody has; it is not recorded."""
    whose = f"A test of the guard's alerts{f' of {channel.tenant_id}' if channel.tenant_id else ''}"
    return Alert(
        tenant_id=whose, scope=Scope.TENANT, period=Period.DAY, starts_at=now, ends_at=now + timedelta(days=1),
        kind=AlertKind.THRESHOLD, percent=50, limit_ticks=10 * TICKS_PER_USD, spent_ticks=5 * TICKS_PER_USD, at=now,
    )  # fmt: skip


@admin.register(AlertChannel)
class AlertChannelAdmin(ModelAdmin):
    list_display = ("kind", "shown_target", "told_of", "is_active")
    list_filter = ("kind", "is_active")
    readonly_fields = ("secret", "shown_target")
    autocomplete_fields = ("tenant",)
    actions_detail: Sequence[Any] = ["send_test"]

    @action(
        description="Send a test",
        url_path="send-test",
        permissions=["change"],
        icon="send",
        dialog={
            "title": "Send a test?",
            "description": "This channel, as it is saved, is told of a made-up budget now. It may take a few seconds.",
            "form_class": TestForm,
            "form_submit_text": "Send",
        },
    )
    def send_test(self, request: HttpRequest, form: TestForm, object_id: str) -> HttpResponse:
        success(request, f"The test was taken by {AlertChannel.objects.get(pk=object_id)}.")
        return back_to(AlertChannel, object_id)

    def get_fields(self, request: HttpRequest, obj: AlertChannel | None = None) -> list[str]:
        """Secrets, and a Slack webhook's address is one, are for those who may change them."""
        if obj and not self.has_change_permission(request, obj):
            return ["tenant", "kind", "shown_target", "is_active"]
        return ["tenant", "kind", "target", "is_active", *(["secret"] if obj else [])]

    @display(description="To")
    def shown_target(self, channel: AlertChannel) -> str:
        return channel.shown_target

    @display(description="Told of")
    def told_of(self, channel: AlertChannel) -> str:
        return channel.tenant_id or "everything"


class ListWithZones(ChangeList):
    """Puts its tenant's zone on each alert of one page of the list, by one query for all."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        alerts = list(self.result_list)  # type: ignore[has-type]
        zones = zones_of(alerts)
        for alert in alerts:
            alert.zone = zones[alert.tenant_id]
        self.result_list = alerts


@admin.register(Alert)
class AlertAdmin(ReadOnly, ShowsUsd, ModelAdmin):
    list_display: ClassVar = ["at", "told", "details"]
    list_filter: ClassVar = ["kind"]
    search_fields: ClassVar = ["tenant_id", "subject"]
    ordering: ClassVar = ["-at"]
    paginator = InfinitePaginator
    show_full_result_count = False

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return ListWithZones

    @display(description="Alert")
    def told(self, alert: Alert) -> str:
        return subject_of(alert)

    @display(description="")
    def details(self, alert: Alert) -> str:
        return text_of(alert, alert.zone)  # type: ignore[attr-defined]


@admin.register(Delivery)
class DeliveryAdmin(ReadOnly, ModelAdmin):
    list_display: ClassVar = ["told", "to", "state_shown", "attempts", "due_at", "delivered_at", "last_error"]
    list_filter: ClassVar = ["state"]
    list_select_related: ClassVar = ["alert", "channel"]
    ordering: ClassVar = ["-pk"]
    actions: Sequence[Any] = ["send_again"]
    paginator = InfinitePaginator
    show_full_result_count = False

    @display(description="Alert")
    def told(self, delivery: Delivery) -> str:
        return subject_of(delivery.alert)

    @display(description="To")
    def to(self, delivery: Delivery) -> str:
        return str(delivery.channel)

    @display(description="State", label=STATE_COLOURS)
    def state_shown(self, delivery: Delivery) -> str:
        return delivery.state

    def has_send_again_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("tenants.change_alertchannel")

    @action(description="Send again", permissions=["send_again"])
    def send_again(self, request: HttpRequest, queryset: QuerySet[Delivery]) -> None:
        success(request, f"{resend(queryset, timezone.now())} will be sent again.")
