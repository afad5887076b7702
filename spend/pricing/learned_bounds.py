"""Allowances: where a provider bills more than a call's text could explain, the bound learns.

Hidden prompts, images, reasoning beyond the maximum: the first such bills are overruns, recorded in
full.  From then on the model's holds cover the like.  A hidden prompt comes on top, whatever the text:
a surplus.  Only where a text is long, and much more was billed, does each token seem to count for more:
a ratio.  Learned from a short text a ratio would multiply everybody's long ones.  What no bill needed
for FORGOTTEN_AFTER is forgotten; an operator may lower it before.  What an operator set is no lesson, and
comes back or stays.
"""

from datetime import datetime, timedelta

from auditlog.models import LogEntry
from django.db import transaction
from django.utils import timezone

from spend.models import CatalogueModel
from spend.pricing.cost import Usage
from tenants.trail import changed_by

LONG_TEXT_TOKENS = 4_000
MOST_SURPLUS_TOKENS = 4_000
"""Of a long text; what a short one lacks can be nothing but a surplus."""
NOTED_EVERY = timedelta(days=1)
FORGOTTEN_AFTER = timedelta(days=30)
LEARNED = "a bill above its hold"
FORGOTTEN = f"no bill needed it for {FORGOTTEN_AFTER.days} days"


def bound_tokens(explained_tokens: int, percent: int, surplus_tokens: int) -> int:
    """The most input tokens of a call whose text explains so many, by what its model has learned."""
    return -(-explained_tokens * percent // 100) + surplus_tokens


def learned(explained_tokens: int, billed_tokens: int, percent: int, surplus_tokens: int) -> tuple[int, int]:
    """Percent and surplus that cover this bill, too. Pure."""
    missing_tokens = billed_tokens - bound_tokens(explained_tokens, percent, 0)
    if explained_tokens < LONG_TEXT_TOKENS or missing_tokens <= MOST_SURPLUS_TOKENS:
        return percent, max(surplus_tokens, missing_tokens)
    return max(percent, -(-(billed_tokens - surplus_tokens) * 100 // explained_tokens)), surplus_tokens


@transaction.atomic
def raise_allowances(model_id: str, explained_tokens: int, max_tokens: int, choices: int, usage: Usage) -> None:
    """Raise the model's allowances to cover `usage`, billed for a call of these bounds. Raises django.db.Error."""
    models = CatalogueModel.objects.filter(pk=model_id)
    model = models.select_for_update(no_key=True).first()
    if model is None:
        return
    if usage.input_tokens > explained_tokens:
        models.update(input_raised_at=timezone.now())  # round the trail, which is for what changes a bound
    percent, surplus_tokens = learned(
        explained_tokens, usage.input_tokens, model.input_allowance_percent, model.input_surplus_tokens
    )
    beyond_maximum = min(usage.reasoning_tokens, usage.output_tokens - max_tokens * choices)
    seen = {
        "input_allowance_percent": percent,
        "input_surplus_tokens": surplus_tokens,
        "reasoning_allowance_tokens": -(-beyond_maximum // choices),
    }
    raised = [name for name, figure in seen.items() if figure > getattr(model, name)]
    for name in raised:
        setattr(model, name, seen[name])
    if raised:
        with changed_by(LEARNED):
            model.save(update_fields=raised)


@transaction.atomic
def forget(now: datetime) -> list[str]:
    """Forget what was learned of models' input that no bill needed for long: of which models."""
    old = CatalogueModel.objects.select_for_update(no_key=True).filter(input_raised_at__lte=now - FORGOTTEN_AFTER)
    forgotten = list(old.order_by("pk"))
    with changed_by(FORGOTTEN):
        for model in forgotten:
            model.input_allowance_percent = _set_by_operator(model, "input_allowance_percent", 100)
            model.input_surplus_tokens = _set_by_operator(model, "input_surplus_tokens", 0)
            model.input_raised_at = None
            model.save(update_fields=["input_allowance_percent", "input_surplus_tokens", "input_raised_at"])
    return [model.pk for model in forgotten]


def _set_by_operator(model: CatalogueModel, name: str, default: int) -> int:
    """What was last set of the model otherwise than by what is done here, of which the audit trail tells."""
    for entry in LogEntry.objects.get_for_object(model).filter(changes__has_key=name).order_by("-id"):
        if (entry.additional_data or {}).get("by") not in {LEARNED, FORGOTTEN}:
            return int(entry.changes[name][1])
    return default
