"""The configuration out and in: the whole of it, what is wrong where, the trail, prices and roles."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from auditlog.models import LogEntry
from django.contrib.auth.models import Group, Permission
from django.core.management import CommandError, call_command
from django.db.models.signals import post_save
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase

from spend.configuration import tenants as tenants_section
from spend.configuration.document import export_text, import_text, plan_text
from spend.configuration.places import Refused
from spend.configuration.yaml_text import read_yaml, write_yaml
from spend.models import Price, PriceSource
from spend.pricing.catalogue import tiers_of
from spend.pricing.rates import price_in_force
from tenants.access.roles import create_roles
from tenants.models import AlertChannel, Budget, Revision, Tenant
from tenants.money import MAX_TICKS, usd_string
from tenants.money import TICKS_PER_USD as USD
from tests.factories import (
    BudgetFactory,
    CatalogueModelFactory,
    DowngradeRuleFactory,
    PriceFactory,
    RouteStepFactory,
    TenantFactory,
)
from tests.support.environment import ROOT

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 12, 1, 12, tzinfo=UTC)
SLACK = "https://hooks.slack.com/services/T0/B0/hush-hush"


def imported(text: str, now: datetime = NOW) -> list[str]:
    return import_text(f"version: 1\n{text}", now).lines


def problems_of(text: str) -> list[str]:
    with pytest.raises(Refused) as refused:
        plan_text(f"version: 1\n{text}", NOW)
    return refused.value.problems


@pytest.fixture
def shop() -> Tenant:
    """A tenant with some of everything, and an installation with a budget, a channel, a price and a role."""
    tenant = TenantFactory.create(id="acme", name="Acme: a shop", time_zone="Europe/Berlin", requests_per_minute=60)
    BudgetFactory.create(tenant=tenant, limit_ticks=10 * USD)
    BudgetFactory.create(tenant=tenant, scope="customer", limit_ticks=USD // 10, hard_cap=Decimal("0.9"))
    BudgetFactory.create(tenant=None, scope="installation", period="month", limit_ticks=500 * USD, alert_percents="")
    for model_id in ("strong", "middling"):
        RouteStepFactory.create(tenant=tenant, model=CatalogueModelFactory.create(id=model_id))
    DowngradeRuleFactory.create(tenant=tenant, to_model=CatalogueModelFactory.create(id="cheap"))
    AlertChannel.objects.create(tenant=tenant, kind="slack", target=SLACK)
    AlertChannel.objects.create(kind="email", target="ops@example.com, boss@example.com")
    cheap = tenant.downgrade_rules.get().to_model
    PriceFactory.create(model=cheap, starts_at=NOW - timedelta(days=1), source="operator", tier__input_ticks=11_111)
    PriceFactory.create(model=cheap, starts_at=NOW + timedelta(days=1), source="operator")
    Group.objects.create(name="finance").permissions.add(Permission.objects.get(codename="view_call"))
    return tenant


def test_what_was_exported_changes_nothing_when_imported(shop: Tenant) -> None:
    text, revision, told = export_text(NOW), Revision.current(), LogEntry.objects.count()

    plan = import_text(text, NOW)

    assert (plan.lines, plan.notes) == ([], [])
    assert (Revision.current(), LogEntry.objects.count()) == (revision, told)
    assert export_text(NOW) == text


def test_an_export_sets_up_another_installation_but_for_secrets(shop: Tenant) -> None:
    text = export_text(NOW)
    Price.objects.filter(source="operator").delete()
    for model in (Tenant, Budget, AlertChannel, Group):
        model._default_manager.all().delete()
    create_roles()

    plan = import_text(text, NOW)

    again, known_as = export_text(NOW), "hooks.slack.com "
    assert [note for note in plan.notes if known_as in note] == plan.notes
    before, after = read_yaml(text), read_yaml(again)
    assert before["tenants"][0].pop("alert_channels")
    assert not after["tenants"][0].pop("alert_channels")
    for price in before["prices"]:  # what had begun there begins now here
        price["starts_at"] = max(price["starts_at"], "2026-12-01T12:00:00Z")
    assert before == after


def test_no_secret_is_in_the_file(shop: Tenant) -> None:
    secrets = AlertChannel.objects.values_list("secret", flat=True)
    text = export_text(NOW)
    assert "hush" not in text
    assert not any(secret in text for secret in secrets)
    assert 'limit: "0.10"' in text and 'hard_cap: "0.9"' in text  # noqa: PT018


def test_each_field_of_a_tenant_is_in_the_file_or_left_out_on_purpose() -> None:
    kept = {column.field.name for column in tenants_section.COLUMNS.by_name.values()}
    assert kept | {"created_at", "archived_at", "is_demo"} == {field.name for field in Tenant._meta.fields}


def test_a_file_changes_what_it_names_and_nothing_else(shop: Tenant) -> None:
    lines = imported("""
budgets:
- {period: month, limit: 600.1}
- {period: total, limit: "9000"}
alert_channels:
- {kind: email, target: new@example.com}
tenants:
- id: acme
  calls_in_flight: 5
  budgets:
  - {scope: tenant, period: day, limit: 12.5, alert_percents: [90, 100]}
  - {scope: conversation, period: total, limit: 0.1}
  route: [middling, strong]
  downgrades: []
- id: bakery
  name: "007"
  budgets: [{scope: tenant, period: week, limit: 1}]
  route: [cheap]
  alert_channels: [{kind: webhook, target: "https://example.com/hook", is_active: false}]
""")
    assert lines == [
        "installation, budget whole installation a month: limit 500.00 → 600.10",
        "installation, budget whole installation a total: new, with period total, limit 9000.00",
        "installation, email to new@example.com: new",
        "tenant acme: calls_in_flight none → 5",
        "tenant acme, budget tenant a day: limit 10.00 → 12.50, alert_percents 50, 80, 100 → 90, 100",
        "tenant acme, budget each conversation a total: new, with scope conversation, period total, limit 0.10",
        "tenant acme: route strong, middling → middling, strong",
        "tenant acme: downgrades any model to cheap → the installation's",
        "tenant bakery: new, with id bakery, name 007",
        "tenant bakery, budget tenant a week: new, with scope tenant, period week, limit 1.00",
        "tenant bakery: route the installation's → cheap",
        "tenant bakery, signed webhook to example.com: new, with is_active no",
    ]
    acme = Tenant.objects.get(pk="acme")
    assert (acme.name, acme.time_zone, acme.calls_in_flight) == ("Acme: a shop", "Europe/Berlin", 5)
    assert acme.budgets.get(scope="conversation").limit_ticks == USD // 10
    assert acme.budgets.get(scope="customer").limit_ticks == USD // 10
    assert Tenant.objects.get(pk="bakery").effective_route() == ["cheap"]


def test_a_dry_run_says_the_same_and_writes_nothing(shop: Tenant, tmp_path: Any, capsys: Any) -> None:
    (file := tmp_path / "guard.yaml").write_text("version: 1\ntenants: [{id: acme, hide_money: true}]")
    revision = Revision.current()

    call_command("import_config", str(file), "--dry-run")
    assert (capsys.readouterr().out, Revision.current()) == ("tenant acme: hide_money no → yes\n", revision)

    call_command("import_config", str(file))
    assert capsys.readouterr().out == "tenant acme: hide_money no → yes\n"
    assert Revision.current() > revision
    entry = LogEntry.objects.latest("id")
    assert (entry.additional_data, entry.changes) == ({"by": "import_config"}, {"hide_money": ["False", "True"]})

    call_command("import_config", str(file))
    assert capsys.readouterr().out == "Nothing to change.\n"


def test_what_the_file_does_not_name_stays_and_is_told(shop: Tenant) -> None:
    TenantFactory.create(id="bakery")
    plan = import_text(
        "version: 1\nbudgets: []\ntenants: [{id: acme, budgets: [], alert_channels: []}]\nprices: []", NOW
    )
    assert plan.lines == []
    assert plan.notes == [
        "installation, budgets: not in the file, and left as it is: whole installation a month",
        "tenant acme, budgets: not in the file, and left as they are: each customer a day, tenant a day",
        "tenant acme, alert channels: not in the file, and left as it is: Slack webhook to hooks.slack.com",
        "tenants: not in the file, and left as it is: bakery",
        "prices of operators: not in the file, and left as they are: cheap, middling, strong",
    ]
    assert Budget.objects.count() == 3


WRONG: list[tuple[str, str]] = [
    (
        "tenant: []",
        "tenant is not known; there are version, budgets, alert_channels, providers, tenants, prices, roles.",
    ),
    ("tenants: {}", "tenants must be a list, not fields with values."),
    ("tenants: [acme]", "tenants[0] must be fields with values, not 'acme'."),
    ("tenants: [{name: Acme}]", "tenants[0].id is missing."),
    ("tenants: [{id: 7}]", "tenants[0].id must be text, in quotes where it looks like a number, not 7."),
    ("tenants: [{id: acme}, {id: acme}]", "tenants[1].id names acme a second time."),
    ("tenants: [{id: acme, is_active: yes}]", "tenants[0].is_active must be true or false, not 'yes'."),
    ("tenants: [{id: acme, zone: UTC}]", "tenants[0].zone is not known; there are id, name"),
    ("tenants: [{id: acme, time_zone: Mars}]", "tenants[0].time_zone: 'Mars' is not an IANA time zone"),
    (
        "tenants: [{id: acme, name: null}]",
        "tenants[0].name must be text, in quotes where it looks like",
    ),
    ("tenants: [{id: acme, default_max_tokens: 0}]", "tenants[0].default_max_tokens: Ensure this value is greater"),
    ("tenants: [{id: acme, content_days: 1.5}]", "tenants[0].content_days must be a whole number from 0 to"),
    (
        "tenants: [{id: acme, route: [nowhere]}]",
        "tenants[0].route[0] must be a model of the catalogue",
    ),
    ("tenants: [{id: acme, route: [cheap, cheap]}]", "tenants[0].route[1] names cheap a second time."),
    ("tenants: [{id: acme, downgrades: [{to: cheap}]}]", "tenants[0].downgrades[0].from is missing."),
    ("tenants: [{id: acme, downgrades: [{from: cheap, to: cheap}]}]", "tenants[0].downgrades[0].to must be another"),
    (
        "tenants: [{id: acme}, {id: b}, {id: c, budgets: [{scope: tenant, period: day, limit: 0.00000000001}]}]",
        "tenants[2].budgets[0].limit must be a multiple of 0.0000000001.",
    ),
    ("budgets: [{period: day, limit: -1}]", "budgets[0].limit must not be negative."),
    ("budgets: [{period: day, limit: 1,5}]", "budgets[0].5 is not known"),
    (
        "budgets: [{period: day, limit: '1,5'}]",
        'budgets[0].limit must be a decimal string such as "12.50", or a number.',
    ),
    ("budgets: [{period: day, limit: .inf}]", "budgets[0].limit must be a decimal string"),
    ("budgets: [{period: day, limit: 1e99}]", "budgets[0].limit is out of range."),
    ("budgets: [{period: day, limit: true}]", "budgets[0].limit must be a decimal string"),
    ("budgets: [{period: day}]", "budgets[0].limit is missing."),
    ("budgets: [{period: hour, limit: 1}]", "budgets[0].period must be one of day, week, month, total, not 'hour'."),
    ("budgets: [{period: [], limit: 1}]", "budgets[0].period must be one of day, week, month, total, not a list."),
    ("budgets: [{period: day, limit: 1, soft_cap: 0.95, hard_cap: 0.9}]", "budgets[0]: The caps must satisfy"),
    (
        "budgets: [{period: day, limit: 1, hard_cap: 0.91234}]",
        "budgets[0].hard_cap: Ensure that there",
    ),
    (
        "budgets: [{period: day, limit: 1, further_steps: [{from: 0.7, downgrades: 2}]}]",
        "budgets[0].further_steps: 70 %",
    ),
    (
        "budgets: [{period: day, limit: 1, further_steps: [{from: 0.9, what: 2}]}]",
        "budgets[0].further_steps[0].what is not known",
    ),
    ("budgets: [{period: day, limit: 1, alert_percents: [101]}]", "budgets[0].alert_percents: '101' is no list of"),
    ("budgets: [{period: day, limit: 1}, {period: day, limit: 2}]", "budgets[1] has the scope and period of another"),
    (
        "tenants: [{id: acme, budgets: [{scope: installation, period: day, limit: 1}]}]",
        "tenants[0].budgets[0]: A budget of",
    ),
    ("alert_channels: [{kind: email}]", "alert_channels[0] needs either target or known_as."),
    ("alert_channels: [{kind: email, target: nobody}]", "alert_channels[0].target: Enter a valid email address."),
    ("alert_channels: [{kind: slack, target: 'http://[x'}]", "alert_channels[0].target: Enter a valid URL."),
    (
        "prices: [{model: nowhere, tiers: []}]",
        "prices[0].model must be a model of the catalogue",
    ),
    ("prices: [{model: cheap, tiers: []}]", "prices[0].tiers must have one with above_tokens 0, the base price."),
    ("prices: [{model: cheap, tiers: [{input: 1, output: 1}]}]", "prices[0].tiers[0].cached_input is missing."),
    (
        "prices: [{model: cheap, tiers: [{input: 100001, cached_input: 0, output: 1}]}]",
        "prices[0].tiers[0].input must be at most 100000.00.",
    ),
    ("prices: [{model: cheap, starts_at: 2027-01-01, tiers: []}]", "prices[0].starts_at must be a time as in RFC 3339"),
    ("roles: [{name: finance, permissions: [spend.everything]}]", "roles[0].permissions[0] must be a permission such"),
    ("roles: [{name: ''}]", "roles[0].name: This field cannot be blank."),
]


@pytest.mark.parametrize(("text", "problem"), WRONG)
def test_what_is_wrong_is_told_with_its_place(text: str, problem: str) -> None:
    CatalogueModelFactory.create(id="cheap")
    [told] = problems_of(text)
    assert told.startswith(problem)


def test_all_that_is_wrong_is_told_at_once_and_nothing_is_written(shop: Tenant, tmp_path: Any) -> None:
    (file := tmp_path / "guard.yaml").write_text("""
version: 1
budgets: [{period: day, limit: 7}]
tenants:
- {id: new, name: 3, budgets: [{scope: tenant, period: day, limit: x}]}
- {id: acme, hide_money: 1, is_active: 0}
""")
    before = export_text(NOW)
    with pytest.raises(CommandError) as error:
        call_command("import_config", str(file))
    assert [line.split()[0] for line in str(error.value).splitlines()[1:]] == [
        "tenants[0].name",
        "tenants[0].budgets[0].limit",
        "tenants[1].is_active",
        "tenants[1].hide_money",
    ]
    assert export_text(NOW) == before


@pytest.mark.parametrize("text", ["", "- a", "tenants: []", "version: 2", "version: '1'"])
def test_a_file_says_its_version(text: str) -> None:
    with pytest.raises(Refused):
        plan_text(text, NOW)


def test_a_failure_midway_leaves_nothing(shop: Tenant) -> None:
    """What listens to changes, as the trail does, fails at the last of them."""
    text = "version: 1\nbudgets: [{period: day, limit: 7}]\ntenants: [{id: acme, name: Other}, {id: bakery}]"
    before, revision = export_text(NOW), Revision.current()

    def fail(instance: Tenant, **_signal: Any) -> None:
        if instance.pk == "bakery":
            raise OSError("no room left")

    post_save.connect(fail, sender=Tenant)
    try:
        with pytest.raises(OSError, match="no room left"):
            import_text(text, NOW)
    finally:
        post_save.disconnect(fail, sender=Tenant)
    assert (export_text(NOW), Revision.current()) == (before, revision)


def price_now(model_id: str, now: datetime) -> Price | None:
    return price_in_force(Price.objects.filter(model=model_id), now)


PRICE = "{above_tokens: 0, input: 0.5, cached_input: '0.05', output: 2}"


def test_a_price_that_differs_starts_now_and_the_one_billed_by_stays(shop: Tenant) -> None:
    old = price_now("cheap", NOW)
    text = f"prices: [{{model: cheap, starts_at: 2020-01-01T00:00:00Z, tiers: [{PRICE}]}}]"

    [line] = imported(text)

    assert line == ("model cheap: 0.50 / 0.05 / 2.00 USD per million tokens from now on (was 1.1111 / 0.20 / 2.50)")
    new = price_now("cheap", NOW)
    assert old is not None
    assert new is not None
    assert (new.starts_at, new.source) == (NOW, PriceSource.OPERATOR)
    assert tiers_of(new)[0].input_ticks == 5_000
    assert Price.objects.filter(pk=old.pk, ends_at=None).exists()
    assert imported(text, NOW + timedelta(minutes=1)) == []


def test_a_price_to_come_is_set_changed_and_left(shop: Tenant) -> None:
    tomorrow, later = "2026-12-02T12:00:00Z", "2027-01-01T01:00:00+01:00"
    lines = imported(f"""
prices:
- {{model: cheap, starts_at: {tomorrow}, tiers: [{PRICE}]}}
- model: cheap
  starts_at: "{later}"
  tiers: [{PRICE}, {{above_tokens: 1000, input: 1, cached_input: 1, cache_write: 1.5, output: 4}}]
""")
    assert lines == [
        f"model cheap: 0.50 / 0.05 / 2.00 USD per million tokens from {tomorrow} on (was 1.25 / 0.20 / 2.50)",
        "model cheap: 0.50 / 0.05 / 2.00; above 1000 1.00 / 1.00 / 4.00 / 1.50 USD per million tokens from "
        "2027-01-01T00:00:00Z on",
    ]
    in_force = price_now("cheap", NOW)
    assert in_force is not None
    assert tiers_of(in_force)[0].input_ticks == 11_111
    assert import_text(export_text(NOW), NOW).lines == []


def test_a_role_of_the_products_own_keeps_what_the_product_gives_it() -> None:
    create_roles()
    text = "roles: [{name: auditor, permissions: [auth.view_group]}, {name: finance, permissions: [spend.view_call]}]"
    assert imported(text) == [
        "role auditor: may also auth.view_group",
        "role finance: new",
        "role finance: may also spend.view_call",
    ]
    assert imported(text) == []
    assert imported("roles: [{name: auditor, permissions: []}, {name: finance, permissions: []}]") == [
        "role auditor: may no longer auth.view_group",
        "role finance: may no longer spend.view_call",
    ]
    auditor = Group.objects.get(name="auditor")
    assert auditor.permissions.filter(codename="view_tenant").exists()
    assert LogEntry.objects.filter(object_repr="finance").count() >= 3


def test_a_channel_is_known_again_without_its_address(shop: Tenant) -> None:
    [channel] = read_yaml(export_text(NOW))["tenants"][0]["alert_channels"]
    host, digest = channel["known_as"].split()
    assert (host, len(digest)) == ("hooks.slack.com", 8)

    tenant: dict[str, Any] = {"id": "acme", "alert_channels": [{**channel, "is_active": False}]}
    plan = import_text(write_yaml({"version": 1, "tenants": [tenant]}), NOW)

    assert plan.lines == [f"tenant acme, Slack webhook to {channel['known_as']}: is_active yes → no"]
    row = AlertChannel.objects.get(tenant="acme")
    assert (row.target, row.is_active) == (SLACK, False)
    # Named by its whole address it is the same channel.
    tenant["alert_channels"] = [{"kind": "slack", "target": SLACK, "is_active": False}]
    assert import_text(write_yaml({"version": 1, "tenants": [tenant]}), NOW).lines == []


@pytest.mark.parametrize("channel", [{"kind": "slack", "target": SLACK}, {"kind": "email", "target": "a@example.com"}])
def test_a_paused_channel_stays_paused_where_the_file_does_not_say(channel: dict[str, str]) -> None:
    paused = AlertChannel.objects.create(**channel, is_active=False)
    text = write_yaml({"version": 1, "alert_channels": [channel]})
    assert import_text(text, NOW).lines == []
    paused.refresh_from_db()
    assert not paused.is_active
    paused.delete()
    assert len(import_text(text, NOW).lines) == 1
    assert AlertChannel.objects.get().is_active


@pytest.mark.parametrize(
    "given", [{"handoff_words": "x" * 2001}, {"handoff_translations": [{"language": "de", "words": "x" * 2001}]}]
)
def test_words_that_are_too_long_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(Refused, match="at most 2000 characters"):
        plan_text(write_yaml({"version": 1, "tenants": [{"id": "acme", **given}]}), NOW)


NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
AMOUNTS = st.integers(0, MAX_TICKS).map(usd_string)
CAPS = st.tuples(st.integers(1, 10_000), st.integers(1, 10_000)).map(sorted)


@st.composite
def budgets(draw: Callable[..., Any]) -> list[dict[str, Any]]:
    names = st.tuples(st.sampled_from(["tenant", "key", "customer"]), st.sampled_from(["day", "week", "total"]))
    return [
        {
            "scope": scope,
            "period": period,
            "limit": draw(AMOUNTS),
            "soft_cap": str(Decimal(soft).scaleb(-4)),
            "hard_cap": str(Decimal(hard).scaleb(-4)),
            "further_steps": [{"from": str(Decimal(hard).scaleb(-4)), "max_tokens": 99}] if soft < hard else [],
            "alert_percents": draw(st.lists(st.integers(1, 100), max_size=4)),
        }
        for scope, period in draw(st.sets(names, max_size=4))
        for soft, hard in [draw(CAPS)]
    ]


TENANTS = st.lists(
    st.fixed_dictionaries(
        {
            "id": st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z"),
            "name": NAMES,
            "is_active": st.booleans(),
            "time_zone": st.sampled_from(["UTC", "Europe/Berlin", "Asia/Kathmandu"]),
            "requests_per_minute": st.none() | st.integers(1, 10_000),
            "budgets": budgets(),
            "route": st.lists(st.sampled_from(["strong", "cheap", "1e5"]), unique=True),
            "downgrades": st.just([]) | st.just([{"from": "*", "to": "cheap"}, {"from": "strong", "to": "1e5"}]),
        }
    ),
    max_size=3,
    unique_by=lambda tenant: tenant["id"],
)


class RoundTrip(TestCase):
    @settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(TENANTS)
    def test_any_configuration_comes_out_as_it_went_in(self, tenants: list[dict[str, Any]]) -> None:
        for model_id in ("strong", "cheap", "1e5"):
            CatalogueModelFactory.create(id=model_id)
        now = timezone.now()

        import_text(write_yaml({"version": 1, "tenants": tenants}), now)
        text = export_text(now)

        assert import_text(text, now).lines == []
        assert export_text(now) == text
        exported = {tenant["id"]: tenant for tenant in read_yaml(text)["tenants"]}
        for tenant in tenants:
            assert (
                exported[tenant["id"]].items()
                >= {
                    name: tenant[name]
                    for name in ("name", "is_active", "time_zone", "requests_per_minute", "downgrades")
                }.items()
            )
            limits = {(each["scope"], each["period"]): Decimal(each["limit"]) for each in tenant["budgets"]}
            budgets = exported[tenant["id"]]["budgets"]
            assert {(each["scope"], each["period"]): Decimal(each["limit"]) for each in budgets} == limits


def test_the_example_of_the_docs_is_taken_as_it_stands() -> None:
    for model_id in ("grok-4.3", "gpt-6-luna"):
        CatalogueModelFactory.create(id=model_id)
    [example] = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "configuration.md").read_text(), re.DOTALL)
    plan = import_text(example, NOW)
    assert len(plan.lines) == 10
    assert import_text(example, NOW).lines == []
