"""What is read of a change is what it changed, and comes to the same as reading everything anew."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import IntegrityError, connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from guard.policy.keeper import PolicyKeeper
from guard.policy.loader import load, updated
from spend.models import CatalogueModel
from tenants.models import ApiKey, Budget, Change, Revision, Tenant, TopUp
from tenants.money import TICKS_PER_USD
from tenants.trail import raise_revision
from tests.factories import (
    ApiKeyFactory,
    BudgetFactory,
    CatalogueModelFactory,
    DowngradeRuleFactory,
    PriceFactory,
    RouteStepFactory,
    TenantFactory,
)

pytestmark = pytest.mark.django_db


def some(model: type[Any], number: int) -> Any:
    rows = list(model.objects.order_by("pk"))
    return rows[number % len(rows)] if rows else None


def save(row: Any, **fields: Any) -> None:
    if row is not None:
        for name, value in fields.items():
            setattr(row, name, value)
        row.save()


def delete(row: Any) -> None:
    if row is not None:
        row.delete()


def tenant(number: int) -> Tenant:
    return some(Tenant, number) or TenantFactory.create()


def top_up(tenant: Tenant) -> TopUp:
    now = timezone.now()
    return TopUp.objects.create(tenant=tenant, amount_ticks=1, starts_at=now, ends_at=now + timedelta(hours=1))


CHANGES: dict[str, Callable[[int], Any]] = {
    "new tenant": lambda _: TenantFactory.create(),
    "tenant paused": lambda n: save(some(Tenant, n), is_active=bool(n % 2)),
    "tenant moved": lambda n: save(some(Tenant, n), time_zone=["UTC", "Asia/Tokyo"][n % 2]),
    "tenant deleted": lambda n: delete(some(Tenant, n)),
    "members": lambda n: tenant(n).members.add(User.objects.get_or_create(username="ann")[0]),
    "tenants of a member": lambda n: User.objects.get_or_create(username="ann")[0].tenants.add(tenant(n)),
    "new key": lambda n: ApiKeyFactory.create(tenant=tenant(n)),
    "key revoked": lambda n: save(some(ApiKey, n), revoked_at=timezone.now()),
    "key deleted": lambda n: delete(some(ApiKey, n)),
    "key moved": lambda n: save(some(ApiKey, n), tenant=tenant(n + 1)),
    "budget": lambda n: BudgetFactory.create(tenant=tenant(n)),
    "limit": lambda n: save(some(Budget, n), limit_ticks=n * TICKS_PER_USD),
    "budget deleted": lambda n: delete(some(Budget, n)),
    "installation's": lambda _: (
        Budget.objects.filter(tenant=None).exists() or BudgetFactory.create(tenant=None, scope="installation")
    ),
    "top-up": lambda n: top_up(tenant(n)),
    "top-up deleted": lambda n: delete(some(TopUp, n)),
    "route": lambda n: RouteStepFactory.create(tenant=tenant(n)),
    "downgrade": lambda n: DowngradeRuleFactory.create(tenant=tenant(n)),
    "model": lambda _: CatalogueModelFactory.create(),
    "model off": lambda n: save(some(CatalogueModel, n), is_enabled=bool(n % 2)),
    "price": lambda n: PriceFactory.create(model=some(CatalogueModel, n) or CatalogueModelFactory.create()),
    "in bulk": lambda n: Tenant.objects.update(default_max_tokens=n + 1) and raise_revision(),
}


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    st.lists(
        st.lists(st.tuples(st.sampled_from(sorted(CHANGES)), st.integers(0, 3)), min_size=1, max_size=3), max_size=5
    )
)
def test_whatever_changes_reading_the_changes_is_reading_everything(looks: list[list[tuple[str, int]]]) -> None:
    with transaction.atomic():
        policy = load()
        for changes in looks:
            for name, number in changes:
                with suppress(IntegrityError), transaction.atomic():  # a second of what there can be one of
                    CHANGES[name](number)
            policy = updated(policy)
            assert policy == load()
        transaction.set_rollback(True)


def queries_of(read: Callable[[], object]) -> list[str]:
    with CaptureQueriesContext(
        connection,
    ) as captured:
        read()
    return [query["sql"] for query in captured]


def test_a_change_costs_what_it_changes() -> None:
    """As many queries, however many tenants there are, and nothing of models and other tenants."""
    few, many = cost_of_a_change(), cost_of_a_change()
    assert few == many > 1


def cost_of_a_change() -> int:
    """The number of queries, beside twenty more tenants."""
    tenants = TenantFactory.create_batch(20)
    for each in tenants:
        ApiKeyFactory.create(tenant=each)
        BudgetFactory.create(tenant=each)
    policy = load()
    assert len(queries_of(partial(updated, policy))) == 1
    tenants[7].is_active = False
    tenants[7].save()
    queries = queries_of(partial(updated, policy))
    assert not any(each.id in query for each in tenants for query in queries if each is not tenants[7])
    renewed = updated(policy)
    assert renewed.models is policy.models
    changed = {name for name, tenant in renewed.tenants.items() if tenant is not policy.tenants[name]}
    assert changed == {tenants[7].id}
    assert {key.tenant.id for digest, key in renewed.keys.items() if key is not policy.keys[digest]} == changed
    return len(queries)


def test_where_it_is_not_known_what_changed_everything_is_read() -> None:
    first, second = TenantFactory.create_batch(2)
    policy = load()
    Tenant.objects.filter(pk=first.pk).update(is_active=False)  # nobody was told
    second.save()
    second.save()
    assert updated(policy).tenants[first.id].is_active
    Change.objects.filter(number=policy.revision + 1).delete()
    assert not updated(policy).tenants[first.id].is_active


def test_changes_that_all_have_read_go() -> None:
    tenant = TenantFactory.create()
    Revision.objects.filter(pk=1).update(number=2 * Change.KEPT - 2)
    tenant.save()
    assert Change.objects.count() > 1
    tenant.save()
    assert list(Change.objects.values_list("number", flat=True)) == [2 * Change.KEPT - 1, 2 * Change.KEPT]


def test_a_top_up_begins_and_ends_by_itself() -> None:
    tenant = TenantFactory.create()
    BudgetFactory.create(tenant=tenant, limit_ticks=TICKS_PER_USD)
    ends_at = top_up(tenant).ends_at
    policy = load()
    assert policy.turns == {tenant.id: ends_at}
    TopUp.objects.update(ends_at=timezone.now())  # as if the hour were over
    late = updated(replace(policy, turns={tenant.id: timezone.now()}))
    assert [limit.limit_ticks for limit in late.tenants[tenant.id].budgets] == [TICKS_PER_USD]
    assert late.turns == {}


def test_a_change_round_the_trail_is_seen_when_everything_is_read_again() -> None:
    tenant = TenantFactory.create()
    keeper = PolicyKeeper()
    keeper.refresh()
    Tenant.objects.update(is_active=False)
    keeper.refresh()
    assert keeper.policy.tenants[tenant.id].is_active
    keeper.load_again_at = 0.0
    keeper.refresh()
    assert not keeper.policy.tenants[tenant.id].is_active
