"""What happened, to look at: calls, ledger entries, holds, windows, rollups, breakers. Nothing here is edited.

There may be millions of rows. The lists therefore never count them, sort by an index only (ids are
made in order of time), and offer filters that an index serves.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, ClassVar
from uuid import UUID

from django.contrib import admin
from django.contrib.admin.utils import unquote
from django.contrib.messages import success
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.decorators import action, display
from unfold.paginator import InfinitePaginator

from spend.breakers import state_of
from spend.budgets.attention import impossible_to_review, to_review
from spend.models import Breaker, Call, LedgerEntry, Outcome, Reservation, ReservationState, Review, Rollup, Window
from spend.names import as_counted
from tenants.admin import ReadOnly, ShowsUsd
from tenants.admin.declared_filters import ModelAdmin
from tenants.models import Tenant
from tenants.money import dollars

MOST_FOUND = 500


class TenantList(admin.SimpleListFilter):
    """By tenant, of which there are hundreds at most."""

    title = "tenant"
    parameter_name = "tenant"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Iterable[tuple[str, str]]:
        return [(tenant.pk, str(tenant)) for tenant in Tenant.objects.all()[:500]]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(tenant_id=self.value()) if self.value() else queryset


class ToReviewFilter(admin.SimpleListFilter):
    title = "review"
    parameter_name = "review"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Iterable[tuple[str, str]]:
        return [
            ("expired", "Expired holds to look into"),
            ("overrun", "Overruns to look into"),
            ("impossible", "Impossible usage to look into"),
        ]

    def queryset(self, request: HttpRequest, queryset: QuerySet[LedgerEntry]) -> QuerySet[LedgerEntry]:
        if self.value() == "expired":
            return queryset.filter(pk__in=to_review(timezone.now()).filter(is_expired=True))
        if self.value() == "overrun":
            return queryset.filter(pk__in=to_review(timezone.now()).filter(is_overrun=True, is_expired=False))
        if self.value() == "impossible":
            return queryset.filter(pk__in=impossible_to_review(timezone.now()))
        return queryset


class History(ReadOnly, ShowsUsd, ModelAdmin):
    """A long list of what happened, newest first."""

    paginator = InfinitePaginator
    show_full_result_count = False
    list_per_page = 50
    sortable_by: Sequence[str] = ()
    list_filter: Sequence[Any] = [TenantList]
    list_filter_sheet = False
    ordering: Sequence[str] = ["-pk"]

    def changeform_view(
        self, request: HttpRequest, object_id: str | None = None, form_url: str = "", extra_context: Any = None
    ) -> Any:
        row = self.get_object(request, unquote(object_id)) if object_id else None
        call_id = getattr(row, "call_id", row.pk if isinstance(row, Call) else None)
        return super().changeform_view(request, object_id, form_url, {**(extra_context or {}), "call_id": call_id})

    def get_ordering(self, request: HttpRequest) -> Sequence[str]:
        """By id, which is by time; with a filter by the column that its index goes on with."""
        return self.ordering if not request.GET.keys() & {"tenant", "review"} else ["-at"]

    def get_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        return [field.name for field in self.model._meta.fields]


class OfCalls(History):
    """Rows of calls: searched by what names these."""

    change_form_outer_before_template = "spend/to_the_dashboard.html"
    call_field = "call_id"
    search_fields: Sequence[str] = ["call_id"]
    search_help_text = "Customer, conversation or request, whole"

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], term: str
    ) -> tuple[QuerySet[Any], bool]:
        found = calls_of(term, request.GET.get("tenant")) if term else None
        return (queryset if found is None else queryset.filter(**{f"{self.call_field}__in": found})), False


def calls_of(term: str, tenant_id: str | None = None) -> list[UUID]:
    """The newest MOST_FOUND calls of a customer and of a conversation with this id, and those of a request."""
    # By tenant, though all are meant: the indexes of customers and conversations begin with it.
    tenants: Any = [tenant_id] if tenant_id else Tenant.objects.values("pk")
    of_tenants = Call.objects.filter(tenant__in=tenants).order_by("-at").values_list("pk", flat=True)
    found = list(Call.objects.filter(request_id=term.strip()).values_list("pk", flat=True)[:MOST_FOUND])
    found += [*_named(term, "customer", of_tenants), *_named(term, "conversation", of_tenants)]
    with suppress(ValueError):
        found.append(UUID(term.strip()))
    return found


def _named(term: str, column: str, calls: QuerySet[Any]) -> Iterable[UUID]:
    name = as_counted(term, lambda each: calls.filter(**{column: each}).exists())
    return calls.filter(**{column: name})[:MOST_FOUND] if name else ()


def _same(call: Call, name: str) -> str | SafeString:
    """A link to the list of this tenant's calls with the same customer or conversation."""
    if not name:
        return ""
    url = reverse("admin:spend_call_changelist", query={"q": name, "tenant": call.tenant_id})
    return format_html('<a class="text-link" href="{}">{}</a>', url, name)


@admin.register(LedgerEntry)
class LedgerEntryAdmin(OfCalls):
    list_display: Sequence[Any] = ["at", "tenant_id", "model", "route_taken", "cost", "hold", "tokens", "remarks"]
    list_filter: Sequence[Any] = [ToReviewFilter, TenantList]
    actions: Sequence[Any] = ["mark_reviewed"]

    @display(description="Cost")
    def cost(self, entry: LedgerEntry) -> str:
        return dollars(entry.cost_ticks)

    @display(description="Hold")
    def hold(self, entry: LedgerEntry) -> str:
        return dollars(entry.hold_ticks)

    @display(description="Route", label={"downgrade": "info", "fallback": "warning"})
    def route_taken(self, entry: LedgerEntry) -> str:
        return entry.route

    @display(description="Tokens in / out")
    def tokens(self, entry: LedgerEntry) -> str:
        return f"{entry.input_tokens:,} / {entry.output_tokens:,}"

    @display(description="")
    def remarks(self, entry: LedgerEntry) -> str:
        said = {
            "expired": entry.is_expired,
            "overrun": entry.is_overrun,
            "impossible usage": entry.is_usage_impossible,
            "estimated": entry.is_estimated,
        }
        return ", ".join(word for word, is_so in said.items() if is_so)

    def has_review_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("spend.add_review")

    @action(description="Mark as looked into", permissions=["review"])
    def mark_reviewed(self, request: HttpRequest, queryset: QuerySet[LedgerEntry]) -> None:
        odd = Q(is_overrun=True) | Q(is_expired=True) | Q(is_usage_impossible=True)
        entries = list(queryset.filter(odd, review__isnull=True))
        for entry in entries:
            Review.objects.get_or_create(entry=entry, defaults={"by_id": request.user.pk})
        success(request, f"{len(entries)} marked.")


@admin.register(Call)
class CallAdmin(OfCalls):
    list_display: Sequence[Any] = [
        "at", "tenant_id", "models", "result", "cost", "of_customer", "of_conversation", "request_id"
    ]  # fmt: skip
    call_field = "pk"
    search_fields: Sequence[str] = ["request_id"]

    @display(description="Customer", empty_value="")
    def of_customer(self, call: Call) -> str | SafeString:
        return _same(call, call.customer)

    @display(description="Conversation", empty_value="")
    def of_conversation(self, call: Call) -> str | SafeString:
        return _same(call, call.conversation)

    @display(description="Model")
    def models(self, call: Call) -> str:
        """The one asked for, and the one that served where that is another."""
        asked, served = call.requested_model, call.model
        return asked if served in {"", asked} else f"{asked} → {served}"

    @display(
        description="Outcome",
        label={
            "served": "success",
            "broke off": "warning",
            "refused": "warning",
            "failed": "danger",
            "handed off": "info",
        },
    )
    def result(self, call: Call) -> tuple[str, str]:
        is_half = call.outcome == Outcome.SERVED and call.code  # a stream that broke off
        outcome = "broke off" if is_half else Outcome(call.outcome).label
        return outcome, call.code or outcome

    @display(description="Cost")
    def cost(self, call: Call) -> str:
        return dollars(call.cost_ticks)


@admin.register(Reservation)
class ReservationAdmin(OfCalls):
    list_display: Sequence[Any] = ["created_at", "tenant_id", "model", "hold_state", "hold", "lease_expires_at"]
    list_filter: Sequence[Any] = []

    @display(description="State", label={"pending": "info", "settled": "success", "expired": "danger"})
    def hold_state(self, reservation: Reservation) -> str:
        return ReservationState(reservation.state).label

    @display(description="Hold")
    def hold(self, reservation: Reservation) -> str:
        return dollars(reservation.hold_ticks)


@admin.register(Window)
class WindowAdmin(History):
    list_display: Sequence[Any] = ["__str__", "starts_at", "ends_at", "spent", "held"]
    list_filter: Sequence[Any] = [TenantList]

    def get_ordering(self, request: HttpRequest) -> Sequence[str]:
        return ["-pk"]

    @display(description="Spent")
    def spent(self, window: Window) -> str:
        return dollars(window.spent_ticks)

    @display(description="Held")
    def held(self, window: Window) -> str:
        return dollars(window.held_ticks)


@admin.register(Rollup)
class RollupAdmin(History):
    list_display: Sequence[Any] = [
        "bucket",
        "tenant_id",
        "model",
        "route",
        "served",
        "refused",
        "failed",
        "handoff",
        "cost",
    ]

    def get_ordering(self, request: HttpRequest) -> Sequence[str]:
        return ["-bucket"]

    @display(description="Cost")
    def cost(self, rollup: Rollup) -> str:
        return dollars(rollup.cost_ticks)


@admin.register(Breaker)
class BreakerAdmin(ReadOnly, ModelAdmin):
    list_display: ClassVar = ["model", "state", "failures", "only_tenant_id", "opened_at", "why", "last_failure_at"]
    list_select_related = ("model",)
    fields: ClassVar = [
        "model",
        "state",
        "failures",
        "only_tenant_id",
        "opened_at",
        "probes",
        "successes",
        "why",
        "last_failure_at",
    ]

    @display(description="Circuit", label={"closed": "success", "half-open": "warning", "open": "danger"})
    def state(self, breaker: Breaker) -> str:
        return state_of(breaker, timezone.now()).value

    @display(description="Last failure")
    def why(self, breaker: Breaker) -> str:
        return breaker.failure_words
