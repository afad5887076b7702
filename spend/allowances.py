"""Allowances: where a provider bills more than a call's text could explain, the bound learns.

Hidden prompts, images, reasoning beyond the maximum: the first such bills are overruns, recorded in
full.  From then on the model's holds cover the highest ratio seen, until an operator lowers it.
"""

from django.db import transaction

from spend.models import CatalogueModel
from spend.pricing import Usage
from tenants.trail import changed_by


@transaction.atomic
def raise_allowances(model_id: str, bound_tokens: int, max_tokens: int, choices: int, usage: Usage) -> None:
    """Raise the model's allowances to cover `usage`, billed for a call of these bounds. Raises django.db.Error."""
    model = CatalogueModel.objects.select_for_update(no_key=True).filter(pk=model_id).first()
    if model is None:
        return
    input_percent = -(-usage.input_tokens * 100 // max(1, bound_tokens))
    beyond_maximum = min(usage.reasoning_tokens, usage.output_tokens - max_tokens * choices)
    seen = {
        "input_allowance_percent": input_percent,
        "reasoning_allowance_tokens": -(-beyond_maximum // choices),
    }
    raised = [name for name, figure in seen.items() if figure > getattr(model, name)]
    for name in raised:
        setattr(model, name, seen[name])
    if raised:
        with changed_by("a bill above its hold"):
            model.save(update_fields=raised)
