"""One configuration under load: its figures, and whether they count."""

import asyncio
import signal
from collections import Counter
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import uvloop

from tests.bench.load import Run, Target, ask_in_turn, keep_asking, percentile
from tests.bench.machine import cpu_s, resident_mib
from tests.bench.prepared import Prepared
from tests.bench.providers import (
    CHUNK_DELAY_S,
    CHUNKS_A_STREAM,
    FAST_MODEL,
    SLOW_ANSWER_S,
    SLOW_MODEL,
    STREAM_S,
    Providers,
)
from tests.support.server import GuardServer

Result = TypeVar("Result")
Figures = dict[str, str]

CONNECTIONS, MANY = 64, 512
HANGS_AFTER_S = 60


@dataclass(frozen=True)
class Effort:
    """Seconds for each measurement."""

    warm_up_s: float
    calls_s: float
    latency_s: float
    held_s: float


FULL = Effort(warm_up_s=2, calls_s=6, latency_s=4, held_s=4)
QUICK = Effort(warm_up_s=0.5, calls_s=1.5, latency_s=1, held_s=1)


def under(load: Coroutine[Any, Any, Result]) -> Result:
    """The result of a load. Raises TimeoutError where something hangs."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(asyncio.wait_for(load, HANGS_AFTER_S))


class Trial:
    """A running guard, the requests that go to it and, for comparison, past it."""

    def __init__(self, server: GuardServer, prepared: Prepared, providers: Providers, effort: Effort) -> None:
        self.server, self.prepared, self.slow_provider, self.effort = server, prepared, providers.slow, effort
        self.fast = Target(server.url, FAST_MODEL, secret=prepared.secret)
        self.fast_stream = Target(server.url, FAST_MODEL, secret=prepared.secret, stream=True)
        self.slow = Target(server.url, SLOW_MODEL, secret=prepared.secret)
        self.slow_stream = Target(server.url, SLOW_MODEL, secret=prepared.secret, stream=True)
        self.direct = Target(providers.fast_url, FAST_MODEL)
        self.direct_stream = Target(providers.fast_url, FAST_MODEL, stream=True)
        self.guarded = [self.fast, self.fast_stream, self.slow, self.slow_stream]
        self.unsound: list[str] = []

    @property
    def pid(self) -> int:
        assert self.server.process
        return self.server.process.pid

    @property
    def bad_answers(self) -> Counter[str]:
        """All but whole 200s, and how often they came."""
        targets = (*self.guarded, self.direct, self.direct_stream)
        return sum((target.failures for target in targets), Counter())

    @property
    def failures(self) -> list[str]:
        """All that was not as it should be; where there is anything, the figures count for nothing."""
        return [f"{number} x {answer}" for answer, number in self.bad_answers.items()] + self.unsound

    def figures(self) -> Figures:
        """All of them; the guard has stopped afterwards."""
        for target in (self.fast, self.fast_stream):
            under(keep_asking(target, CONNECTIONS, self.effort.warm_up_s / 2))
        warm_mib = resident_mib(self.pid)
        measured = [self.calls(), self.added_latency(), self.held(), self.added_first_byte(), self.streams()]
        figures = {name: figure for figures in measured for name, figure in figures.items()}
        figures["memory after warm-up / at the end, MiB"] = f"{warm_mib:,.0f} / {resident_mib(self.pid):,.0f}"
        self.check_books()
        return figures | {"answers other than a whole 200": f"{self.bad_answers.total():,}"}

    def calls(self) -> Figures:
        pids = [self.pid] + ([self.prepared.server_pid] if self.prepared.server_pid else [])
        before_s = [cpu_s(pid) for pid in pids]
        run = under(keep_asking(self.fast, CONNECTIONS, self.effort.calls_s))
        used_s = [cpu_s(pid) - before for pid, before in zip(pids, before_s, strict=True)]
        thousands = max(1, len(run.times)) / 1000
        return {
            f"calls/s at {CONNECTIONS} connections": f"{run.calls_a_second:,.0f}",
            "… their p50 / p99, ms": milliseconds([each.whole_s for each in run.times]),
            "CPU s per 1,000 calls (and of the database server)": " + ".join(
                f"{seconds / thousands:.2f}" for seconds in used_s
            ),
        }

    def added_latency(self) -> Figures:
        pairs = under(ask_in_turn(self.direct, self.fast, self.effort.latency_s))
        added_s = [guarded.whole_s - direct.whole_s for direct, guarded in pairs]
        return {"added at 1 connection, p50 / p99, ms": milliseconds(added_s)}

    def held(self) -> Figures:
        run, at_once = self.at_once(self.slow, self.effort.held_s)
        most = MANY / SLOW_ANSWER_S
        return {
            f"calls at the {SLOW_ANSWER_S * 1000:.0f} ms provider at once, of {MANY}": f"{at_once:,}",
            f"… calls/s, of {most:,.0f} at most": f"{run.calls_a_second:,.0f}",
            "… added, p50 / p99, ms": milliseconds([each.whole_s - SLOW_ANSWER_S for each in run.times]),
        }

    def added_first_byte(self) -> Figures:
        pairs = under(ask_in_turn(self.direct_stream, self.fast_stream, self.effort.latency_s))
        added_s = [guarded.first_byte_s - direct.first_byte_s for direct, guarded in pairs]
        return {"first byte of a stream, added, p50 / p99, ms": milliseconds(added_s)}

    def streams(self) -> Figures:
        before_s = cpu_s(self.pid)
        run, at_once = self.at_once(self.slow_stream, 0)
        used_s = cpu_s(self.pid) - before_s
        first_bytes_s = [each.first_byte_s - SLOW_ANSWER_S for each in run.times]
        ends_s = [each.whole_s - STREAM_S for each in run.times]
        return {
            f"streams of {1 / CHUNK_DELAY_S:.0f} chunks/s at the provider at once, of {MANY}": f"{at_once:,}",
            "… first byte, added, p50 / p99, ms": milliseconds(first_bytes_s),
            f"… end, after more than {STREAM_S:.1f} s, p50 / p99, ms": milliseconds(ends_s),
            "… CPU s per 1,000 chunks": f"{used_s / (MANY * CHUNKS_A_STREAM) * 1000:.2f}",
        }

    def at_once(self, target: Target, seconds: float) -> tuple[Run, int]:
        """Many calls to the slow provider at once, and how many of them it saw at once."""
        self.slow_provider.start_over()
        run = under(keep_asking(target, MANY, seconds))
        return run, self.slow_provider.most_at_once()

    def check_books(self) -> None:
        """Every call, and no other, stands in the books, with the model that was to serve it, and they balance."""
        expected: Counter[str] = Counter()
        for target in self.guarded:
            expected[target.model] += target.served
        recorded = self.server.client_of(self.prepared.secret).get("/api/spend").json()["modelsUsed"]
        if recorded != expected:
            self.unsound.append(f"{dict(expected)} calls were answered, but the books say {recorded}")
        if self.server.terminate() not in (0, -signal.SIGTERM):
            self.unsound.append(f"the guard did not stop in order:\n{self.server.log}")
        audit = self.server.manage("audit_ledger")
        if audit.returncode != 0:
            self.unsound.append(audit.stderr)


def milliseconds(values_s: list[float]) -> str:
    """p50 / p99."""
    return " / ".join(f"{percentile(values_s, percent) * 1000:,.1f}" for percent in (50, 99))


def table(columns: Mapping[str, Figures]) -> str:
    """In Markdown, a column for each configuration; all have the same rows."""
    names = next(iter(columns.values()))
    rows = [["", *columns], *([name, *(figures[name] for figures in columns.values())] for name in names)]
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])
