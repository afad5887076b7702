"""Alert channels without their secrets.

A webhook's address may be its password, so a file has only its host and the first digits of the address's hash,
by which a channel that is there is known again. A new one needs its address, which a file may name.
"""

from collections import defaultdict
from collections.abc import Iterable
from hashlib import sha256
from typing import Any

from spend.configuration.changes import Plan
from spend.configuration.columns import Columns
from spend.configuration.places import Place
from tenants.models import AlertChannel, ChannelKind, Tenant

COLUMNS = Columns.of(AlertChannel, "kind", "target", "is_active")
ACTIVE = Columns.of(AlertChannel, "is_active")
KNOWN_AS = "known_as"
LEFT_OUT = "left out: it is not there, and without its address no file can make it; name its target, or use the admin"
DIGITS = 8


def shown(rows: Iterable[AlertChannel]) -> list[dict[str, Any]]:
    return [_shown(row) for row in sorted(rows, key=lambda row: row.pk)]


def _shown(row: AlertChannel) -> dict[str, Any]:
    fields = COLUMNS.shown(row)
    if row.kind == ChannelKind.EMAIL:
        return fields
    return {"kind": fields["kind"], KNOWN_AS: known_as(row), "is_active": fields["is_active"]}


def known_as(row: AlertChannel) -> str:
    """What a channel is known by in a file: an email's addresses, or of any other "hooks.slack.com 3f9a1c02"."""
    if row.kind == ChannelKind.EMAIL:
        return row.target
    return f"{row.shown_target} {sha256(row.target.encode()).hexdigest()[:DIGITS]}"


def plan_of_installation(plan: Plan, place: Place) -> None:
    plan_channels(plan, place, None, AlertChannel.objects.filter(tenant=None))


def plan_channels(plan: Plan, place: Place, tenant: Tenant | None, rows: Iterable[AlertChannel]) -> None:
    whose = f"tenant {tenant.pk}" if tenant else "installation"
    standing: defaultdict[tuple[str, str], list[AlertChannel]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.pk):
        standing[row.kind, known_as(row)].append(row)
    for each in place.elements():
        with plan.problems.gathered():
            wanted, name, values = _read(each, tenant)
            if found := standing[wanted.kind, name]:
                what = f"{whose}, {wanted.get_kind_display()} to {name}"
                plan.set_row(each, found.pop(0), what, ACTIVE, values)
            elif wanted.target:
                plan.set_row(each, wanted, f"{whose}, {wanted}", ACTIVE, values)
            else:
                plan.notes.append(f"{whose}, {wanted.get_kind_display()} {name}: {LEFT_OUT}")
    plan.leave(f"{whose}, alert channels", [str(row) for rows in standing.values() for row in rows])


def _read(place: Place, tenant: Tenant | None) -> tuple[AlertChannel, str, dict[str, Any]]:
    """The channel that is wanted, without a target where the file has none; what it is known as; and what of ACTIVE
    the file has, since of one that is there already the rest stays.
    """
    given = place.fields([*COLUMNS.by_name, KNOWN_AS], ["kind"])
    wanted, values = AlertChannel(tenant=tenant, **COLUMNS.read(given)), ACTIVE.read(given)
    if ("target" in given) == (KNOWN_AS in given):
        raise place.refused(f"needs either target or {KNOWN_AS}")
    if KNOWN_AS in given:
        return wanted, given[KNOWN_AS].text(), values
    COLUMNS.check(place, wanted)
    return wanted, known_as(wanted), values
