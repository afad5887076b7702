"""The names of a call whose customer was erased while its worker was away for longer than the lease.

The worker's memory has the old ones; the reservation, which the erasure renamed, has those that count.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple
from uuid import UUID

from spend.ledger.rules import Caller, Command, Expire, Limit, Record, Reserve, Settle, Void
from tenants.models import Scope


class Names(NamedTuple):
    customer: str
    conversation: str
    tags: str

    @classmethod
    def of(cls, caller: Caller) -> "Names":
        return cls(caller.customer, caller.conversation, caller.tags)


def renamed(command: Command, names: Mapping[UUID, Names]) -> Command:
    """The command as it is where its call goes by these names now, which are by the calls' ids."""
    caller = _caller_of(command)
    if caller is None or caller.call_id not in names:
        return command
    now = names[caller.call_id]
    caller = replace(caller, **now._asdict())
    match command:
        case Settle() | Void() | Expire():
            return replace(command, reserved=replace(command.reserved, caller=caller))
        case Reserve():
            return replace(command, caller=caller, limits=tuple(_renamed(limit, now) for limit in command.limits))
        case Record():
            return replace(command, caller=caller)
    return command


def _caller_of(command: Command) -> Caller | None:
    match command:
        case Settle() | Void() | Expire():
            return command.reserved.caller
        case Reserve() | Record():
            return command.caller
    return None


def _renamed(limit: Limit, names: Names) -> Limit:
    subjects = {Scope.CUSTOMER.value: names.customer, Scope.CONVERSATION.value: names.conversation}
    return replace(limit, key=limit.key._replace(subject=subjects.get(limit.key.scope, limit.key.subject)))
