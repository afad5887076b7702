"""The configuration's rows, read into a policy: all of them, or what has changed since."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from django.db import connection
from django.utils import timezone

from guard.policy.snapshot import BudgetPolicy, Handoff, KeyPolicy, ModelPolicy, Pace, Policy, TenantPolicy
from spend.capabilities import Lesson, with_lessons
from spend.models import CatalogueModel, LearnedCapability
from spend.pricing.rates import PricePeriod, load_history
from spend.providers.accounts import load_accounts
from tenants.budgets import MOST_NAMED, EffectiveBudget, budgets_in_force
from tenants.models import AlertChannel, ApiKey, Budget, Change, Revision, Tenant

# Asked four times a second in each process: to put it together anew costs ten times what it costs to ask.
REVISION_QUERY, REVISION_PARAMS = Revision.objects.filter(pk=1).values_list("number").query.sql_with_params()

PARTS = ("route_steps", "downgrade_rules", "handoff_translations")
"""What belongs to a tenant and is read with it, besides its budgets and keys."""

OF_INSTALLATION = {Budget._meta.label_lower, AlertChannel._meta.label_lower}
"""Where no tenant's: the installation's own budgets, few and always read, and channels, which no policy has."""


@dataclass(frozen=True)
class _TenantsPart:
    """What a policy has of some tenants, and of the installation's own budgets."""

    tenants: Mapping[str, TenantPolicy]
    keys: Mapping[str, KeyPolicy]
    turns: Mapping[str, datetime]
    installation: tuple[BudgetPolicy, ...]


def load() -> Policy:
    """Read the whole configuration. The revision is read first: a change meanwhile is read again."""
    revision = Revision.current()
    rows = Tenant.objects.prefetch_related(*PARTS)
    part = _read(list(rows), ApiKey.objects.all())
    return Policy(part.tenants, part.keys, load_models(), part.installation, revision, part.turns, load_accounts())


def updated(policy: Policy) -> Policy:
    """`policy` as it is now, by reading what has changed; itself where nothing has."""
    now, revision = timezone.now(), _current_revision()
    turned = {tenant_id for tenant_id, turns_at in policy.turns.items() if turns_at <= now}
    if revision == policy.revision and not turned:
        return policy
    changes = list(Change.objects.filter(number__gt=policy.revision, number__lte=revision))
    names = turned | {change.tenant_id for change in changes if change.tenant_id}
    is_known = len(changes) == revision - policy.revision and all(map(_is_narrow, changes))
    if not is_known or len(names) > MOST_NAMED:
        return load()
    if any(map(_is_of_models, changes)):
        policy = replace(policy, models=load_models(), providers=load_accounts())
    return _with_tenants(policy, names, revision)


def _is_narrow(change: Change) -> bool:
    return bool(change.tenant_id) or change.table in OF_INSTALLATION or _is_of_models(change)


def _is_of_models(change: Change) -> bool:
    return change.table.startswith(f"{CatalogueModel._meta.app_label}.")


def _with_tenants(policy: Policy, names: Collection[str], revision: int) -> Policy:
    rows = Tenant.objects.filter(pk__in=names).prefetch_related(*PARTS)
    part = _read(list(rows), ApiKey.objects.filter(tenant__in=names))
    return Policy(
        {**{name: tenant for name, tenant in policy.tenants.items() if name not in names}, **part.tenants},
        {**{digest: key for digest, key in policy.keys.items() if key.tenant.id not in names}, **part.keys},
        policy.models,
        part.installation,
        revision,
        {**{name: turn for name, turn in policy.turns.items() if name not in names}, **part.turns},
        policy.providers,
    )


def _read(tenants: Collection[Tenant], keys: Iterable[ApiKey]) -> _TenantsPart:
    rows = {tenant.id: tenant for tenant in tenants}
    in_force = budgets_in_force(timezone.now(), tenants)
    policies = {tenant.id: tenant_policy(tenant, in_force.of_tenants[tenant.id]) for tenant in tenants}
    return _TenantsPart(
        policies,
        {
            key.digest: KeyPolicy(
                key.id, policies[key.tenant_id], key.expires_at, key.revoked_at, Pace.of(key, rows[key.tenant_id])
            )
            for key in keys
            if key.tenant_id in policies
        },
        in_force.turns,
        tuple(BudgetPolicy.of(budget) for budget in in_force.of_installation),
    )


def tenant_policy(tenant: Tenant, budgets: Iterable[EffectiveBudget]) -> TenantPolicy:
    """What a policy has of one tenant."""
    return TenantPolicy(
        id=tenant.id,
        is_active=tenant.is_active,
        zone=tenant.zone,
        default_max_tokens=tenant.default_max_tokens,
        floor_max_tokens=tenant.floor_max_tokens,
        hide_money=tenant.hide_money,
        share_content=tenant.share_content,
        content_days=tenant.content_days,
        handoff=Handoff.of(tenant),
        route=tuple(tenant.effective_route()),
        downgrades=tuple(tenant.effective_downgrades()),
        budgets=tuple(BudgetPolicy.of(budget) for budget in budgets),
    )


def load_models() -> dict[str, ModelPolicy]:
    models = CatalogueModel.objects.in_bulk()
    periods = load_history(models).periods
    learned: dict[str, list[Lesson]] = defaultdict(list)
    for row in LearnedCapability.objects.all():
        learned[row.model_id].append(row.lesson)
    return {name: _model_policy(model, periods.get(name, ()), learned[name]) for name, model in models.items()}


def _model_policy(model: CatalogueModel, prices: Sequence[PricePeriod], learned: Sequence[Lesson]) -> ModelPolicy:
    return ModelPolicy(
        id=model.id,
        provider=model.provider,
        upstream_name=model.upstream_name,
        context_tokens=model.context_tokens,
        max_output_tokens=model.max_output_tokens,
        reasoning_allowance_tokens=model.reasoning_allowance_tokens,
        input_allowance_percent=model.input_allowance_percent,
        input_surplus_tokens=model.input_surplus_tokens,
        input_raised_at=model.input_raised_at,
        image_allowance_tokens=model.image_allowance_tokens,
        answer_timeout_s=model.answer_timeout_s,
        is_enabled=model.is_enabled,
        shutdown_on=model.shutdown_on,
        prices=tuple(prices),
        capabilities=with_lessons(model.capabilities, learned),
        makes_embeddings=model.makes_embeddings,
    )


def _current_revision() -> int:
    """As `Revision.current`."""
    with connection.cursor() as cursor:
        cursor.execute(REVISION_QUERY, REVISION_PARAMS)
        row = cursor.fetchone()
    return row[0] if row else 0
