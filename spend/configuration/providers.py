"""Providers without their keys: of a new one the key is set by hand, or comes from the setting that it names."""

from typing import Any

from spend.configuration.changes import Plan
from spend.configuration.columns import Columns
from spend.configuration.places import Place
from spend.models import Provider
from spend.providers.accounts import set_key

COLUMNS = Columns.of(
    Provider,
    "name", "kind", "base_url", "key_setting", "dialect", "api_version", "takes_max_tokens", "answer_timeout_s",
    "stream_idle_s", "headers", "is_enabled",
)  # fmt: skip
KEY_GOES = "its key is not in use at another host: set it again"


def shown() -> list[dict[str, Any]]:
    return [COLUMNS.shown(row) for row in Provider.objects.order_by("name")]


def plan_providers(plan: Plan, place: Place) -> None:
    standing, named = Provider.objects.in_bulk(), set()
    for each in place.elements():
        with plan.problems.gathered():
            values = COLUMNS.read(each.fields(COLUMNS.by_name, ["name"]))
            if values["name"] in named:
                raise each.refused(f"names {values['name']} a second time")
            named.add(values["name"])
            _plan_provider(plan, each, standing.get(values["name"]) or Provider(name=values["name"]), values)
    plan.leave("providers", [name for name in standing if name not in named])


def _plan_provider(plan: Plan, place: Place, row: Provider, values: dict[str, Any]) -> None:
    address_before, had_key = row.base_url, bool(row.sealed_key)
    plan.set_row(place, row, f"provider {row.name}", COLUMNS, values)
    set_key(row, None, address_before)
    if had_key and not row.sealed_key:
        line = f"provider {row.name}: {KEY_GOES}"
        plan.change(line, lambda: row.save(update_fields=["sealed_key"]))
