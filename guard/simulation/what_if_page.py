"""The page that asks what other settings would have done, open to whoever sees the tenant; operators save them."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.timezone import localtime
from django.views.decorators.http import require_POST

from guard.http.errors import GuardError
from guard.simulation.replay import Replay
from guard.simulation.what_if import ASSUMPTIONS, Answer, todays_settings, what_if
from guard.simulation.what_if_form import WhatIfForm, digest_of
from spend import replica
from spend.budgets.recommended import DAYS, Recommended, recommend
from spend.models import Call
from spend.page_access import tenant_page
from tenants.budgets import DAILY, default_budget, replace_budgets, terms_of
from tenants.models import Budget, Scope, Tenant
from tenants.money import dollars, usd_string
from tenants.routes import set_route

TEMPLATE = "guard/what_if.html"
NEEDED = [
    "tenants.change_tenant",
    *(
        f"tenants.{verb}_{model}"
        for model in ("budget", "routestep", "downgraderule")
        for verb in ("add", "change", "delete")
    ),
]
"""Permissions of who saves; whatever is changed, so that the button is there or not, and never fails."""
MOST_UNASKED = 20_000
"""Of so many calls the page recommends limits at once; of more when it is asked to, which takes seconds."""
FILL = "fill"


@dataclass(frozen=True)
class BeforeAfter:
    """The chart's days, in ticks, as it was and as it would have been."""

    labels: list[str]
    before: list[int]
    after: list[int]

    @property
    def rows(self) -> list[tuple[str, int, int]]:
        return list(zip(self.labels, self.before, self.after, strict=True))

    @property
    def largest(self) -> int:
        return max([*self.before, *self.after], default=0)

    @property
    def for_script(self) -> dict[str, Any]:
        series = [("As it was", self.before), ("With these settings", self.after)]
        values = [
            {"label": label, "values": [usd_string(ticks) for ticks in found], "stack": label}
            for label, found in series
        ]
        return {"type": "bar", "labels": self.labels, "series": values, "lines": [], "before": [], "slots": []}


def what_if_page(request: HttpRequest, tenant: Tenant) -> HttpResponse:
    return _page(request, tenant, request.GET)


show = tenant_page(what_if_page)


def save_page(request: HttpRequest, tenant: Tenant) -> HttpResponse:
    """Save what was asked about. Where it is not what its page showed any more, the page comes again and says so."""
    if not request.user.has_perms(NEEDED):
        raise PermissionDenied
    with transaction.atomic():
        locked = Tenant.objects.select_for_update().get(pk=tenant.pk)
        today = todays_settings(locked)
        form = WhatIfForm(locked, today, request.POST)
        if not form.is_valid() or request.POST.get("seen") != digest_of(today):
            return _page(request, locked, request.POST)
        _write(locked, form)
    return redirect(f"{reverse('what_if', args=[tenant.id])}?{urlencode({'saved': 'yes'})}")


save = tenant_page(save_page, methods=require_POST)


def _write(tenant: Tenant, form: WhatIfForm) -> None:
    """Each row by itself, so that the trail has it; the default stays the default where nobody changed it."""
    wanted, today = form.settings(), form.today
    if digest_of(wanted) == digest_of(today):
        return
    default = default_budget(tenant)
    is_default = not tenant.budgets.filter(scope=Scope.TENANT).exists()
    stays = [row for row in wanted.budgets if is_default and _name(row) == DAILY and terms_of(row) == terms_of(default)]
    replace_budgets(tenant, [row for row in wanted.budgets if row not in stays])
    if wanted.route != today.route or wanted.downgrades != today.downgrades:
        route = None if wanted.route == today.route else wanted.route
        set_route(tenant, route, wanted.downgrades if route or wanted.downgrades != today.downgrades else None)


def _name(row: Budget) -> tuple[str, str]:
    return row.scope, row.period


def _page(request: HttpRequest, tenant: Tenant, asked: QueryDict) -> HttpResponse:
    now = timezone.now()
    with replica.on_primary():  # what is changed must be what stands
        today = todays_settings(tenant)
    is_asked = "days" in asked
    recommended = _recommended(tenant, asked, now)
    form = WhatIfForm(tenant, today, _filled(asked, recommended) if is_asked else None)
    seen, stands = asked.get("seen", ""), digest_of(today)
    answer, trouble = _answer(form, tenant, now) if is_asked and form.is_valid() else (None, "")
    context = {
        "tenant": tenant,
        "tab": "what-if",
        "now": now,
        "form": form,
        "rows": [(row, recommended.get(row.key) if recommended else None) for row in form.rows()],
        "whys": {key: _why(each) for key, each in (recommended or {}).items()},
        "can_ask_for_limits": recommended is None,
        "recommended_days": DAYS,
        "seen": stands,
        "is_stale": bool(seen) and seen != stands,
        "is_saved": asked.get("saved") == "yes",
        "can_save": request.user.has_perms(NEEDED),
        "answer": answer,
        "trouble": trouble,
        "assumptions": ASSUMPTIONS,
        "sent": [(name, form.data.get(name, "")) for name in form.fields] if is_asked else [],
    }
    if answer:
        context |= {
            "sentence": sentence_of(answer),
            "chart": _chart(answer),
            "reasons": reasons_of(answer.replay),
            "changes": form.changes(),
        }
    return render(request, TEMPLATE, context)


def _filled(asked: QueryDict, recommended: dict[str, Recommended] | None) -> QueryDict:
    """With the recommended limit that a button stands for."""
    data = asked.copy()
    if recommended and (found := recommended.get(asked.get(FILL, ""))):
        data[f"limit-{asked[FILL]}"] = usd_string(found.limit_ticks)
    return data


def _recommended(tenant: Tenant, asked: QueryDict, now: datetime) -> dict[str, Recommended] | None:
    """By the budget's key; None where it was not asked for, and would take long."""
    if "suggest" not in asked and FILL not in asked:
        some = Call.objects.filter(tenant=tenant).order_by().values("pk")[: MOST_UNASKED + 1]
        if some.count() > MOST_UNASKED:
            return None
    return {f"{each.scope.value}-{each.period.value}": each for each in recommend(tenant, now)}


def _answer(form: WhatIfForm, tenant: Tenant, now: datetime) -> tuple[Answer | None, str]:
    try:
        return what_if(tenant, form.settings(), form.cleaned_data["days"], now), ""
    except GuardError as error:
        return None, str(error)


def sentence_of(answer: Answer) -> str:
    """The answer in one plain sentence."""
    replay = answer.replay
    after, before = replay.after, replay.before
    if not replay.calls:
        return f"There was no call in the last {answer.days} days."
    calls = f"{replay.calls:,} call{'s' if replay.calls > 1 else ''}"
    became = (
        f"{_count(after.refused)} would have been refused and {_count(after.downgraded)} answered by a cheaper model"
    )
    saved = before.cost_ticks - after.cost_ticks
    largest = max(after.cost_ticks, before.cost_ticks)
    spend = f"{dollars(after.cost_ticks, largest)} spent in place of {dollars(before.cost_ticks, largest)}"
    less = f"{dollars(abs(saved), largest)} {'less' if saved > 0 else 'more'}" if saved else "the same"
    return f"With these settings, of {calls} in the last {answer.days} days {became}: {spend}, {less}."


def _count(number: int) -> str:
    return f"{number:,}" if number else "none"


def _chart(answer: Answer) -> BeforeAfter:
    before, after = answer.replay.days_before, answer.replay.days_after
    days = sorted(before.keys() | after.keys())
    labels = [f"{(local := localtime(day)).day} {local:%b}" for day in days]
    return BeforeAfter(labels, [sum(before[day].values()) for day in days], [sum(after[day].values()) for day in days])


DEAREST = {
    Scope.TENANT: "The dearest day",
    Scope.CUSTOMER: "A customer's dearest day",
    Scope.CONVERSATION: "The dearest conversation",
}


def _why(each: Recommended) -> str:
    refused = f"{each.refused:,} at most" if each.refused else "none"
    return (
        f"{DEAREST[each.scope]} of the last {each.days} cost {dollars(each.dearest_ticks)}; "
        f"{dollars(each.limit_ticks)} leaves room: of {each.calls:,} calls {refused} would have been refused."
    )


def reasons_of(replay: Replay) -> list[tuple[str, int]]:
    """Where the difference comes from, each apart; what came to nothing is left out."""
    saved = replay.saved
    named = [
        ("Cheaper models answered", saved.by_model),
        ("Answers cut short", saved.by_length),
        ("Another price", saved.by_price),
        ("Calls refused: not saved, but not served either", saved.by_refusing),
        ("Calls answered that were refused (estimated)", saved.by_serving),
    ]
    return [(name, ticks) for name, ticks in named if ticks]
