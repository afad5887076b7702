"""`python -m tests.bench`: a table of figures for each database and number of workers.

The exit status is 1 where anything was not as it should be: such figures count for nothing.
"""

import argparse
import gc
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench.load import Target, keep_asking
from tests.bench.machine import describe_machine
from tests.bench.prepared import ALWAYS, PREPARED, TENANT_BUDGETS, Prepared
from tests.bench.providers import FAST_MODEL, Providers, playing_providers
from tests.bench.trial import CONNECTIONS, FULL, QUICK, Effort, Trial, table, under
from tests.support.environment import environment_of_tests
from tests.support.server import GuardServer


def main() -> None:
    options = read_options()
    effort = QUICK if options.quick else FULL
    gc.freeze()
    with tempfile.TemporaryDirectory(prefix="guard-bench-") as name, playing_providers() as providers:
        directory = Path(name)
        print(describe_machine(directory))
        print(f"without the guard: {calls_a_second_directly(providers, effort):,.0f} calls/s", flush=True)
        os.environ |= environment(providers)
        figures, failures = {}, []
        for title, trial in trials(options, providers, effort, directory):
            figures[title] = trial.figures()
            print(f"\n{table({title: figures[title]})}", *trial.failures, sep="\n", flush=True)
            failures += [f"{title}: {failure}" for failure in trial.failures]
    if len(figures) > 1:
        print(f"\nAll of them:\n\n{table(figures)}")
    if failures:
        sys.exit("\nTHESE FIGURES COUNT FOR NOTHING:\n" + "\n".join(failures))


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="How fast the guard is here.")
    parser.add_argument("--quick", action="store_true", help="a few seconds each: whether it works, not how fast")
    parser.add_argument("--database", choices=PREPARED, action="append", help="only this one; may be given again")
    parser.add_argument("--workers", type=int, action="append", metavar="N", help="1 and 2, if not given")
    return parser.parse_args()


def calls_a_second_directly(providers: Providers, effort: Effort) -> float:
    """What load generator and provider can do by themselves: no figure of the guard's can be above it."""
    target = Target(providers.fast_url, FAST_MODEL)
    for seconds in (effort.warm_up_s, effort.calls_s):
        run = under(keep_asking(target, CONNECTIONS, seconds / 2))
    assert not target.failures, target.failures
    return run.calls_a_second


def environment(providers: Providers) -> dict[str, str]:
    """The guard's settings: those of tests, but with the provider's timeout of production."""
    return {
        **environment_of_tests("sqlite://:memory:", providers.slow.base_url),
        **providers.environment,
        "PROVIDER_TIMEOUT_SECONDS": "120",
        "TENANT_BUDGETS": TENANT_BUDGETS,
    }


def trials(
    options: argparse.Namespace, providers: Providers, effort: Effort, directory: Path
) -> Iterator[tuple[str, Trial]]:
    """Each with its guard running, on a database of its own."""
    for database in options.database or ALWAYS:
        with PREPARED[database](directory) as prepared:
            print(f"\n{prepared.description}", flush=True)
            for workers in options.workers or (1, 2):
                with running(prepared, workers, directory / f"{database}-{workers}.log") as server:
                    trial = Trial(server, prepared, providers, effort)
                    yield f"{database}, {workers} worker{'s' * (workers > 1)}", trial


@contextmanager
def running(prepared: Prepared, workers: int, log_path: Path) -> Iterator[GuardServer]:
    server = GuardServer(prepared.databases.copy(), log_path, workers=workers)
    try:
        server.start()
        yield server
    finally:
        server.close()


if __name__ == "__main__":
    main()
