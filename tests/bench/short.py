"""`python -m tests.bench.short`: the short form, for CI: what a call costs in a fixed piece of Python's work.

CPU for CPU, in turns and within one run, so that a slow or busy machine fails nothing. The exit status is 1 where one
costs half as much again as when COSTS was written down: the guard has lost a third of its speed then.
"""

import os
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

from tests.bench.load import Target, keep_asking
from tests.bench.machine import cpu_s
from tests.bench.prepared import TENANT_BUDGETS, prepared_sqlite
from tests.bench.providers import FAST_MODEL, fast_provider
from tests.bench.trial import CONNECTIONS, under
from tests.support.environment import environment_of_tests
from tests.support.server import GuardServer

ROUNDS, ROUND_S = 7, 1.0
COSTS = {"a call": 0.15, "a stream": 0.27}
"""CPU of one, in that of `work`. As this module last printed them on the main branch."""
LOST = 1.5


def work() -> int:
    """What Python does all day: dictionaries, strings and whole numbers."""
    ticks = 0
    for number in range(10_000):
        row = {"id": f"req_{number}", "tokens": f"{number % 997}"}
        ticks += int(row["tokens"]) * 12_500 % 1_000_003 + len(row["id"])
    return ticks


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="guard-bench-") as name, fast_provider() as provider_url:
        os.environ |= environment_of_tests("sqlite://:memory:", f"{provider_url}/v1")
        os.environ["TENANT_BUDGETS"] = TENANT_BUDGETS
        directory = Path(name)
        with (
            prepared_sqlite(directory) as prepared,
            closing(GuardServer(prepared.databases.copy(), directory / "log")) as server,
        ):
            server.start()
            targets = {
                what: Target(server.url, FAST_MODEL, secret=prepared.secret, stream=what == "a stream")
                for what in COSTS
            }
            found = {what: cost(server, target) for what, target in targets.items()}
    for what, now in found.items():
        print(f"{what} costs {now:.3f} of the fixed work; when it was written down: {COSTS[what]:.3f}")
    failures = [f"{number} x {answer}" for target in targets.values() for answer, number in target.failures.items()]
    slower = [what for what, now in found.items() if now > LOST * COSTS[what]]
    sys.exit("\n".join([*failures, *(f"{what} has become too dear" for what in slower)]) or 0)


def cost(server: GuardServer, target: Target) -> float:
    """The least of some rounds, each in parts of the work done just before and after: what disturbs only adds."""
    assert server.process
    under(keep_asking(target, CONNECTIONS, ROUND_S))
    ratios = []
    for _ in range(ROUNDS):
        before_s, work_s = cpu_s(server.process.pid), cpu_s_of_work()
        run = under(keep_asking(target, CONNECTIONS, ROUND_S))
        used_s = cpu_s(server.process.pid) - before_s
        ratios.append(used_s / len(run.times) / ((work_s + cpu_s_of_work()) / 2))
    return min(ratios)


def cpu_s_of_work() -> float:
    started_s = time.process_time()
    for _ in range(10):
        work()
    return (time.process_time() - started_s) / 10


if __name__ == "__main__":
    main()
