"""`python -m tests.bench.footprint`: what the guard's processes weigh after a thousand calls, and cost when idle.

The exit status is 1 where one is over what we promise.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import psutil

from tests.bench.prepared import PREPARED, TENANT_BUDGETS
from tests.bench.providers import FAST_MODEL, fast_provider
from tests.support.environment import environment_of_tests
from tests.support.server import Client, GuardServer

CALLS = 1000
WEB_MIB, BACKGROUND_MIB, IDLE_PERCENT = 150, 90, 1.0
REST_S, IDLE_S = 10, 60
MESSAGES = [{"role": "user", "content": "Where is my parcel? I have been waiting for it since Monday."}]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.footprint", description=__doc__)
    parser.add_argument("--database", choices=PREPARED, default="sqlite")
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="guard-footprint-") as name, fast_provider() as provider_url:
        directory = Path(name)
        os.environ |= environment_of_tests("sqlite://:memory:", f"{provider_url}/v1")
        os.environ |= {"TENANT_BUDGETS": TENANT_BUDGETS, "BACKGROUND": "true"}
        with PREPARED[options.database](directory) as prepared:
            server = GuardServer(prepared.databases.copy(), directory / "log", workers=options.workers)
            server.start()
            try:
                over = measure(server, prepared.secret)
            finally:
                server.close()
    sys.exit(over)


def measure(server: GuardServer, secret: str) -> int:
    """Prints the figures; 1 where one is over."""
    call(server.client_of(secret), CALLS * server.workers)
    time.sleep(REST_S)
    before = cpu_s(server)
    time.sleep(IDLE_S)
    after = cpu_s(server)
    is_over = False
    for process in processes(server):
        most_mib = BACKGROUND_MIB if "background" in process.cmdline() else WEB_MIB
        mib = process.memory_info().rss / 2**20
        idle_percent = 100 * (after[process.pid] - before[process.pid]) / IDLE_S
        print(f"{mib:6.1f} of {most_mib} MiB, idle {idle_percent:.2f} % of a core: {' '.join(process.cmdline())[-60:]}")
        is_over = is_over or mib > most_mib
    idle_percent = 100 * (sum(after.values()) - sum(before.values())) / IDLE_S
    print(f"idle in all: {idle_percent:.2f} of {IDLE_PERCENT} % of a core")
    return int(is_over or idle_percent > IDLE_PERCENT)


def call(client: Client, calls: int) -> None:
    """Whole answers and streams in turn, one call after another."""
    for number in range(calls):
        body = {"model": FAST_MODEL, "messages": MESSAGES, "user": f"customer-{number}", "stream": number % 2 == 1}
        answer = client.post("/v1/chat/completions", json=body)
        assert answer.status_code == 200, answer.text
    client.close()  # so that nothing of ours is open while it is idle


def processes(server: GuardServer) -> list[psutil.Process]:
    assert server.process
    first = psutil.Process(server.process.pid)
    return [first, *first.children(recursive=True)]


def cpu_s(server: GuardServer) -> dict[int, float]:
    """Seconds of CPU by process id."""
    return {process.pid: sum(process.cpu_times()[:2]) for process in processes(server)}


if __name__ == "__main__":
    main()
