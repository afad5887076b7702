"""Amounts, numbers, times and bars as the pages show them."""

from datetime import datetime, timedelta, tzinfo
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode

from django import template
from django.contrib.humanize.templatetags.humanize import intcomma
from django.urls import reverse
from django.utils import timezone

from dashboard.comparison import Change
from dashboard.queries.budgets import used_ppm
from dashboard.queries.search import Hit
from spend import replica
from spend.budgets.usage import Use
from spend.models import provider_label as label_of_provider
from tenants.models import Tenant
from tenants.money import dollars, usd_string

register = template.Library()

ONE_PERCENT = 10_000
SECOND_MS = 1000


@register.filter
def money(ticks: int | None, largest: int | None = None) -> str:
    """USD for people: see `tenants.money.dollars`.

    `largest` is the largest amount of a column, so that all of it has the same decimals; but an amount that these would
    round to nothing keeps the digits that tell it apart.
    """
    if ticks is None:
        return "–"
    return dollars(ticks, largest)


@register.filter
def absolute(ticks: int) -> int:
    return abs(ticks)


@register.filter
def money_exact(ticks: int | None) -> str:
    return "–" if ticks is None else f"${usd_string(ticks)}".replace("$-", "−$")


@register.filter
def per_million(ticks_per_token: int | None) -> str:
    """A token price as USD per million tokens."""
    return f"${usd_string(ticks_per_token * 1_000_000)}" if isinstance(ticks_per_token, int) else "–"


@register.filter
def short(number: int, is_exact: bool = False) -> str:
    """A count in at most five characters or so: 9,999, 12.3K, 4.5M; all of it where it is to be exact."""
    for unit, size in () if is_exact else (("B", 10**9), ("M", 10**6), ("K", 10**3)):
        if number >= (10 * size if unit == "K" else size):
            return f"{(Decimal(number) / size).quantize(Decimal('0.1')).normalize():f}{unit}"
    return str(intcomma(number))


@register.filter
def share(part: int, whole: int) -> str:
    """`part` in percent of `whole`, rounded, but 100 only where it is all of it."""
    if not whole:
        return "0\u00a0%"
    rounded = (200 * part + whole) // (2 * whole)
    return _percent(part * 1_000_000 // whole, rounded if part == whole else min(rounded, 99))


def _percent(millionths: int, percent: int) -> str:
    """With a space that no line breaks at."""
    return f"{percent}\u00a0%" if not 0 < millionths < ONE_PERCENT else "under 1\u00a0%"


@register.filter
def width(part: int, whole: int) -> str:
    """A length inside a bar, 0 to 100, with two decimals."""
    hundredths = min(max(part, 0) * 10_000 // whole, 10_000) if whole > 0 else 0
    return f"{hundredths // 100}.{hundredths % 100:02}"


@register.filter
def used_share(use: Use) -> str:
    """Rounded down: 100 is said only where all is used."""
    return _percent(used_ppm(use), used_ppm(use) // ONE_PERCENT)


@register.filter
def seconds(milliseconds: int) -> str:
    return f"{Decimal(milliseconds) / SECOND_MS:.1f} s" if milliseconds >= SECOND_MS else f"{milliseconds} ms"


@register.filter
def near(at: datetime | None) -> str:
    """A time to come or just past, as short as it can be said, in the active zone: "16:40", "1 Dec"."""
    return _near(at, timezone.get_current_timezone()).removeprefix("at ").removeprefix("on ") if at else "never"


def _near(at: datetime, zone: tzinfo) -> str:
    """With its preposition: "at 16:40", "at midnight", "on 1 Dec", "on 1 Dec at 05:00"."""
    local, today = at.astimezone(zone), timezone.localdate(timezone=zone)
    clock = f"at {local:%H:%M}" if local.hour or local.minute else ""
    if local.date() == today:
        return clock or "at midnight"
    if local.date() == today + timedelta(days=1):
        return f"{clock} tomorrow" if clock else "at midnight"
    return f"on {local.day} {local:%b} {clock}".strip()


@register.inclusion_tag("dashboard/parts/bar.html")
def budget_bar(use: Use, tenant: Tenant, *, state: str = "", name_zone: bool = False) -> dict[str, Any]:
    """Spent and held of a limit, and its state, or the one that is given.

    Times are those of the tenant's zone, which is named if it is not obvious.
    """
    limit = max(use.budget.limit_ticks, 1)
    spent, held, ends_at = use.window.spent_ticks, use.window.held_ticks, use.window.ends_at
    when = _near(ends_at, tenant.zone) if ends_at else ""
    return {
        "use": use,
        "tenant": tenant,
        "state": state or use.state,
        "spent": width(spent, limit),
        "held": width(min(held, max(limit - spent, 0)), limit),
        "marks": [
            width(mark, limit) for mark in (use.budget.soft_ticks, *(each.from_ticks for each in use.budget.further))
        ],
        "starts_afresh": f"{when} ({tenant.time_zone})" if name_zone and when else when,
    }


@register.inclusion_tag("dashboard/parts/change.html")
def change(now: int, before: int, kind: str = "count", *, on: str = "") -> dict[str, Any]:
    """Up or down from what it was before, in words; `kind` is "money", of amounts in ticks, or "count"."""
    found = Change(now, before)
    size = abs(found.difference)
    percent = None if found.percent is None else abs(found.percent)
    return {
        "direction": found.direction,
        "percent": "" if percent is None else f"{intcomma(percent)}\u00a0%" if percent else "under 1\u00a0%",
        "size": money(size) if kind == "money" else short(size),
        "on": on,
    }


@register.inclusion_tag("dashboard/parts/source.html")
def source_notice() -> dict[str, Any]:
    """Says where the figures come from that the page shows, unless they are as good as the main database's."""
    return {"source": replica.source()}


@register.filter
def instant(at: datetime) -> str:
    """In the active zone, to the second, with its day unless that is today: "14:03:10", "1 Dec 14:03:10"."""
    local = timezone.localtime(at)
    return f"{local:%H:%M:%S}" if local.date() == timezone.localdate() else f"{local.day} {local:%b %H:%M:%S}"


@register.filter
def lasting(span: timedelta) -> str:
    """In one unit, of which there are two at least: "2 s", "119 s", "2 min", "3 days"."""
    for unit, size in (("days", timedelta(days=1)), ("h", timedelta(hours=1)), ("min", timedelta(minutes=1))):
        if span >= 2 * size:
            return f"{span // size} {unit}"
    return f"{span // timedelta(seconds=1)} s"


@register.filter
def provider_label(name: str) -> str:
    return label_of_provider(name)


@register.simple_tag(takes_context=True)
def query(context: dict[str, Any], **changes: Any) -> str:
    """The page's query string with some parameters changed; an empty one is left out."""
    params = {**context["request"].GET.dict(), **changes}
    kept = urlencode({name: value for name, value in params.items() if value not in ("", None)})
    return f"?{kept}" if kept else ""


@register.simple_tag
def subject_url(tenant_id: str, kind: str, name: Any, page: str = "subject") -> str:
    """The address of one customer, conversation or key; `name` is what calls bear, of a key its number."""
    return f"{reverse(page, args=[tenant_id, kind])}?{urlencode({'id': name})}"


@register.simple_tag
def url_of_hit(hit: Hit) -> str:
    if hit.call:
        return reverse("call", args=[hit.tenant.id, hit.call.id])
    if hit.kind == "tenant":
        return reverse("tenant", args=[hit.tenant.id])
    return subject_url(hit.tenant.id, hit.kind, hit.name)


@register.filter
def item(mapping: dict[Any, Any], key: Any) -> Any:
    return mapping.get(key, "")
