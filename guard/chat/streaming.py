"""A stream's second half: chunks passed on as they come, and one settlement, however it ends.

It ends when the provider is done, breaks off, stalls or sends garbage; when the client goes away; or
when the worker is stopped.  The provider's usage settles it where it came.  Else what was passed on is
counted and priced: an estimate, never nothing, never more than was held.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from django.http import HttpResponseBase

from guard.chat import idempotency
from guard.chat.billing import counted_bill, texts_in, tokens_only
from guard.chat.settlement import bill_of, settle
from guard.chat.types import Answer, Opened
from guard.http.errors import AllModelsFailed, GuardError, LedgerUnavailable, envelope_body
from guard.http.sse import Event, Splitter, encode
from guard.providers.deltas import objects_in
from guard.providers.failures import Failed
from guard.telemetry.content_capture import keeps_content
from guard.worker.runtime import Runtime
from spend.codes import FailureCode, StepCode
from spend.ledger.rules import Bill, LedgerError

SOURCES = ("annotations", "citations", "search_results", "sources")
"""What of a chunk without choices is for its reader; all else there comes with the usage, for who asked for that."""


@dataclass(slots=True)
class Tally:
    """What has come of a stream of so many choices: its last usage, its texts in order, and how it ended."""

    choices: int = 1
    usage: Any = None
    texts: list[str] = field(default_factory=list)
    texts_used: int = 0
    """How many of the texts had come with the last usage."""
    content: list[str] = field(default_factory=list)
    finish_reasons: dict[Any, Any] = field(default_factory=dict)
    is_done: bool = False
    has_begun: bool = False

    def take(self, event: Event) -> None:
        self.is_done = self.is_done or event.is_done
        if event.chunk is None:
            return
        self.has_begun = True
        for choice in objects_in(event.chunk.get("choices")):
            index, delta = _index_of(choice), choice.get("delta")
            self.texts.extend(texts_in(delta))
            if index == 0 and isinstance(delta, dict):
                self.content.extend(texts_in(delta.get("content")))
            if reason := choice.get("finish_reason"):
                self.finish_reasons[index] = reason
        if usage := event.chunk.get("usage"):
            self.usage, self.texts_used = usage, len(self.texts)

    @property
    def is_finished(self) -> bool:
        """Whether all of the answer has come; its usage may still follow."""
        return self.is_done or len(self.finish_reasons) >= self.choices

    @property
    def is_usage_final(self) -> bool:
        """Some providers send a usage with every chunk, or only with the first: it may not be the last word."""
        return self.is_finished and not any(self.texts[self.texts_used :])

    @property
    def has_last_usage(self) -> bool:
        return self.usage is not None and self.is_usage_final

    def completion(self) -> dict[str, Any]:
        message = {"role": "assistant", "content": "".join(self.content)}
        return {"choices": [{"index": 0, "message": message, "finish_reason": self.finish_reasons.get(0)}]}


def shown(event: Event, model: str, *, show_usage: bool, hide_money: bool) -> bytes:
    """The event as the client sees it: the served model's name, and usage only if it asked."""
    if event.chunk is None:
        return b"" if event.is_done else event.raw + b"\n\n"
    chunk = {**(event.odd or event.chunk), "model": model}
    if not show_usage and "usage" in chunk:
        # The chunk that closes with it goes too, but not the sources that a provider may name there.
        if chunk.pop("usage") and not chunk.get("choices") and not any(map(chunk.get, SOURCES)):
            return b""
    elif hide_money and "usage" in chunk:
        chunk["usage"] = tokens_only(chunk["usage"])
    return encode(chunk)


def replayed_events(events: str, model: str, *, hide_money: bool) -> bytes:
    """Events that were shown before, as they may be shown today."""
    again = Splitter().feed(events.encode())
    return b"".join(shown(event, model, show_usage=True, hide_money=hide_money) for event in again)


def _index_of(choice: dict[str, Any]) -> Any:
    index = choice.get("index", 0)
    return index if isinstance(index, int) else repr(index)


class Relay:
    """The body of a streamed answer. `aclose` settles it if its end has not; both may be called at any time."""

    def __init__(
        self, opened: Opened, runtime: Runtime, *, path: str, show_usage: bool, closing: Callable[[Answer], bytes]
    ) -> None:
        """`closing` makes the events that follow the provider's own, once the stream is settled."""
        self.opened = opened
        self.runtime = runtime
        self.path = path
        self.show_usage = show_usage
        self.closing = closing
        self.model = opened.hold.reserved.offer.model
        self.tally = Tally(opened.progress.call.ask.choices)
        call = opened.progress.call
        self.keeps_events = call.claim is not None or keeps_content(call.tenant) or runtime.telemetry.shares(call)
        self.passed_on: list[bytes] = []
        self.settling: asyncio.Task[Answer] | None = None
        self.billed_nothing = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for events in self.opened.stream:
                if piece := self._pass_on(events):
                    yield piece
                if self.is_finished:
                    self.opened.stream.expect_end(has_usage=self.tally.has_last_usage)
            if not self.is_finished:
                raise Failed(FailureCode.CONNECTION_FAILED, billed=None)
        except Failed as failure:
            if not self.is_finished:
                yield await self._break_off(failure)
                return
        yield await self._end()

    @property
    def is_finished(self) -> bool:
        return self.tally.is_finished

    async def aclose(self) -> None:
        """The client has gone, or the stream is over: settle, once, and close the provider's side."""
        settled = asyncio.shield(self._settle())  # begins before anything here can be cancelled
        try:
            self.opened.stream.close()
        finally:
            with suppress(LedgerError):  # the ledger's writer has kept it, and says so
                await settled

    def _pass_on(self, events: list[Event]) -> bytes:
        piece = b"".join(map(self._shown, events))
        if self.keeps_events:
            self.passed_on.append(piece)
        return piece

    def _shown(self, event: Event) -> bytes:
        self.tally.take(event)
        hide_money = self.opened.progress.call.tenant.hide_money
        return shown(event, self.model, show_usage=self.show_usage, hide_money=hide_money)

    async def _end(self) -> bytes:
        """The events after the provider's own."""
        try:
            return self.closing(await asyncio.shield(self._settle()))
        except LedgerError:
            return self._error(LedgerUnavailable("The answer is complete; its cost is still to be written."))

    async def _break_off(self, failure: Failed) -> bytes:
        """Settle what came of it. The headers have gone, so the client is told by an event, which its SDK raises."""
        progress = self.opened.progress
        progress.failed[self.model] = failure.code
        progress.note(self.model, StepCode.BROKE_OFF, code=failure.code)
        self.billed_nothing = failure.billed is False and not self.tally.has_begun
        await self.aclose()
        await self.runtime.record_failure(self.opened.hold.reserved, failure.code)
        attempts = [{"model": self.model, "code": failure.code}]
        return self._error(AllModelsFailed("The model's provider broke off.", attempts=attempts))

    def _error(self, error: GuardError) -> bytes:
        return encode({"error": envelope_body(error, self.path, self.opened.progress.call.caller.request_id)})

    def _settle(self) -> "asyncio.Task[Answer]":
        """The settlement, in a task of its own: the one that serves the client may be cancelled with it."""
        if self.settling is None:
            self.settling = self.runtime.keep(self._settle_once())
        return self.settling

    async def _settle_once(self) -> Answer:
        hold, progress = self.opened.hold, self.opened.progress
        # Half an answer is nothing to replay: its key may be tried again.
        half_done = None if self.is_finished else progress.call.claim
        if half_done:
            progress.call = replace(progress.call, claim=None)
        completion = {**self.tally.completion(), "events": b"".join(self.passed_on).decode(errors="replace")}
        try:
            return await settle(hold, await self._bill(), completion, progress, self.runtime)
        finally:
            if half_done:
                await self.runtime.note(idempotency.release, half_done)

    async def _bill(self) -> Bill:
        """By the provider's usage where its last word came; else counted, though never less than it said so far."""
        reserved, progress, sent = self.opened.hold.reserved, self.opened.progress, self.opened.sent
        if self.billed_nothing:
            return Bill(cost_ticks=0, computed_ticks=0, duration_ms=progress.duration_ms)
        bill = await bill_of(self.tally.usage, self.tally.texts, sent, reserved, progress)
        if bill.cost_ticks is not None and self.tally.is_usage_final:
            return bill
        # Counting a long prompt takes a while.
        counted = await asyncio.to_thread(counted_bill, sent, self.tally.texts, reserved, progress.duration_ms)
        if bill.cost_ticks is None or (counted.cost_ticks or 0) >= bill.cost_ticks:
            return counted
        return replace(bill, is_estimated=True)


class Streamed(HttpResponseBase):
    """Server-sent events; `guard.asgi` passes them on and closes them, whoever goes away first."""

    streaming = True

    def __init__(self, body: Relay, headers: dict[str, str]) -> None:
        super().__init__(content_type="text/event-stream", headers={"Cache-Control": "no-cache", **headers})
        self.body = body
