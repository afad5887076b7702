"""`python -m tests.bench.growth`: the same load on a new installation and on one with much in it, in turns.

The exit status is 1 where the grown one is slower than we promise, or an answer was not a whole 200.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.load import Target, ask_each, keep_asking
from tests.bench.machine import cpu_s, describe_machine
from tests.bench.prepared import PREPARED, TENANT_BUDGETS
from tests.bench.providers import FAST_MODEL, fast_provider
from tests.bench.trial import CONNECTIONS, under
from tests.support.environment import ROOT, environment_of_tests
from tests.support.server import Client, GuardServer, manage

ROUNDS, ROUND_S = 5, 4.0
FIRST_CALLS = 500
"""Tenants who call for the first time of their day."""
EDITS, EDIT_EVERY_S = 20, 0.5
NEW_KEYS, GIVES_UP_AFTER_S = 5, 30
SIX_BUDGETS = [
    {"scope": scope, "period": period, "limitUsd": "1000000"}
    for scope in ("tenant", "customer", "conversation")
    for period in ("day", "month")
]
LEAST_SHARE, MOST_KEY_S, MOST_RELOAD_PERCENT = 0.9, 1, 2


@dataclass
class Side:
    """One of the two installations: its guard, the load that goes to it, and what came of it."""

    server: GuardServer
    calls: Target
    times: int = 0
    seconds: float = 0
    cpu_s: float = 0

    def ask(self, seconds: float) -> None:
        before_s = cpu_s(self.pid)
        run = under(keep_asking(self.calls, CONNECTIONS, seconds))
        self.times, self.seconds = self.times + len(run.times), self.seconds + run.seconds
        self.cpu_s += cpu_s(self.pid) - before_s

    @property
    def pid(self) -> int:
        assert self.server.process
        return self.server.process.pid


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.growth", description=__doc__)
    parser.add_argument("--database", choices=PREPARED, default="sqlite")
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--tenants", type=int, default=10_000)
    options = parser.parse_args()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="guard-growth-")))
        provider_url = stack.enter_context(fast_provider())
        os.environ |= environment_of_tests("sqlite://:memory:", f"{provider_url}/v1")
        os.environ["TENANT_BUDGETS"] = TENANT_BUDGETS
        prepared = stack.enter_context(PREPARED[options.database](directory))
        print(describe_machine(directory), prepared.description, sep="\n", flush=True)
        new_url, grown_url = prepared.databases.copy(), prepared.databases.copy()
        size = ["--entries", str(options.entries), "--tenants", str(options.tenants)]
        secrets = history(
            grown_url, "make", *size, "--model", FAST_MODEL, "--keys", str(min(FIRST_CALLS, options.tenants))
        )
        new = stack.enter_context(running(new_url, directory / "new.log", prepared.secret))
        grown = stack.enter_context(running(grown_url, directory / "grown.log", prepared.secret))
        sys.exit(report(new, grown, secrets))


def history(database_url: str, *arguments: str) -> list[str]:
    """What a command of `tests.bench.history` prints on its standard output."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.history", *arguments],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": database_url},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout.split()


@contextmanager
def running(database_url: str, log_path: Path, secret: str) -> Iterator[Side]:
    with closing(GuardServer(database_url, log_path)) as server:
        server.start()
        yield Side(server, Target(server.url, FAST_MODEL, secret=secret))


def report(new: Side, grown: Side, secrets: list[str]) -> int:
    """Prints the rows; 1 where one is worse than we promise."""
    share = in_turns(new, grown)
    print(f"calls/s at {CONNECTIONS} connections, of a new installation's: {share:.2f} (at least {LEAST_SHARE})")
    print(f"CPU of a call, of a new installation's: {grown.cpu_s / grown.times * new.times / new.cpu_s:.2f}")
    firsts = [Target(grown.server.url, FAST_MODEL, secret=secret) for secret in secrets]
    first, later = (under(ask_each(firsts, CONNECTIONS)).calls_a_second for _ in range(2))
    print(f"calls/s of tenants' first calls of the day, of their later ones': {first / later:.2f}", flush=True)
    operator = operator_of(grown.server)
    six = in_turns(new, with_six_budgets(grown, operator))
    print(f"calls/s with six budgets on each call, of a new installation's: {six:.2f} (at least {LEAST_SHARE})")
    key_s = max(seconds_until_a_key_works(grown.server, operator) for _ in range(NEW_KEYS))
    print(f"a new key works within {key_s:.2f} s (at most {MOST_KEY_S})")
    reload_percent = percent_of_a_core_for_edits(grown)
    print(f"two edits a second cost {reload_percent:.1f} % of a core (at most {MOST_RELOAD_PERCENT})")
    failures = sum((target.failures for target in (new.calls, grown.calls, *firsts)), Counter[str]())
    print(*(f"{number} x {answer}" for answer, number in failures.items()), sep="\n")
    is_worse = min(share, six) < LEAST_SHARE or key_s > MOST_KEY_S or reload_percent > MOST_RELOAD_PERCENT
    return int(is_worse or bool(failures))


def in_turns(new: Side, grown: Side) -> float:
    """The grown one's calls a second in parts of the new one's, asked in turns, so that what drifts meets both."""
    for side in (new, grown):
        under(keep_asking(side.calls, CONNECTIONS, ROUND_S / 2))
        side.times, side.seconds, side.cpu_s = 0, 0, 0
    for _ in range(ROUNDS):
        new.ask(ROUND_S)
        grown.ask(ROUND_S)
    return grown.times / grown.seconds * new.seconds / new.times


def operator_of(server: GuardServer) -> Client:
    token = manage("create_operator_token", "bench", environment={"DATABASE_URL": server.database_url}).stdout.strip()
    client = server.client_of(None)
    client.headers["Authorization"] = f"Token {token}"
    return client


def with_six_budgets(side: Side, operator: Client) -> Side:
    """Another load on that installation: of a customer in a conversation, each with budgets."""
    operator.put("/api/budgets/bench", json={"budgets": SIX_BUDGETS}).raise_for_status()
    secret = new_key(operator)
    wait_for_key(side.server.client_of(secret))
    who: dict[str, Any] = {"user": "customer", "metadata": {"conversation_id": "conversation"}}
    return Side(side.server, Target(side.server.url, FAST_MODEL, secret=secret, **who))


def new_key(operator: Client) -> str:
    answer = operator.post("/api/tenants/bench/keys", json={"name": "bench"})
    answer.raise_for_status()
    return str(answer.json()["key"])


def seconds_until_a_key_works(server: GuardServer, operator: Client) -> float:
    client = server.client_of(new_key(operator))
    started = time.monotonic()
    wait_for_key(client)
    return time.monotonic() - started


def wait_for_key(client: Client) -> None:
    deadline = time.monotonic() + GIVES_UP_AFTER_S
    while client.get("/api/budget").status_code != 200:
        assert time.monotonic() < deadline, "a new key never worked"
        time.sleep(0.02)


def percent_of_a_core_for_edits(side: Side) -> float:
    """What it costs the worker to hear of each edit, beyond its rest; they are made by another process."""
    before_s = cpu_s(side.pid)
    time.sleep(EDITS * EDIT_EVERY_S)
    at_rest_s = cpu_s(side.pid) - before_s
    history(side.server.database_url, "edit", "--times", str(EDITS), "--every", str(EDIT_EVERY_S))
    return 100 * (cpu_s(side.pid) - before_s - 2 * at_rest_s) / (EDITS * EDIT_EVERY_S)


if __name__ == "__main__":
    main()
