"""The providers: what is sent to each, and what of an answer or a stream comes back.

Imported by a worker at its start, and by nothing that a command needs: aiohttp takes a while.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from itertools import takewhile
from time import monotonic
from typing import Any, NamedTuple, cast

import aiohttp
import orjson
from django.conf import settings
from yarl import URL

from guard.http.request_ids import NO_HEADERS
from guard.http.sse import BLANK, MOST_BYTES, Event, Splitter
from guard.providers.addresses import EMBEDDINGS_PATH, key_header, url_of
from guard.providers.dialects import DIALECTS, Chat, dialect_for, with_affinity
from guard.providers.embeddings import embeddings_in
from guard.providers.endpoint import Connections, Endpoint, failures_told
from guard.providers.failures import (
    Failed,
    ProviderError,
    Rejected,
    is_error,
    is_page,
    meaning_of_error_within,
)
from guard.providers.stream_shapes import completion_of, events_of
from spend.codes import FailureCode
from spend.models import DEMO, ProviderKind
from spend.providers.accounts import Account, demo_stands_in

LAST_WORD_S = 1.5
"""How long a usage is waited for when an answer has ended; it comes on the heels of the end, or not at all."""
LAST_DONE_S = 0.5
"""How long the closing [DONE] is waited for when the usage has come, too."""
ALIVE_AFTER = 6
"""After this part of STREAM_IDLE_SECONDS a stream that is only kept alive begins so: its client may have proxies."""
ALWAYS: Mapping[str, dict[str, Any]] = {
    # Unsaid, a project's own setting holds, and priority costs more than the list price that was held.
    ProviderKind.OPENAI: {"service_tier": "default"},
    # Else its `usage` need not say what was billed.
    ProviderKind.OPENROUTER: {"usage": {"include": True}},
}
"""What goes with every chat request to a kind of provider, where the request does not say it."""
PAGE_OR_DOCUMENT = (b"<", b"{")


class Provider:
    """One provider's chat completions, by its dialect wherever a call can be, and beside them its embeddings."""

    def __init__(self, account: Account, connections: Connections) -> None:
        self.account = account
        self.always = ALWAYS.get(account.kind, {})
        self.wait_s = account.answer_timeout_s or settings.PROVIDER_TIMEOUT_SECONDS
        self.idle_s = account.stream_idle_s or settings.STREAM_IDLE_SECONDS
        self.url_of = cache(partial(url_of, account))
        self.endpoint = Endpoint(account.base_url, {**dict(account.headers), **key_header(account)}, connections)

    async def complete(
        self, payload: Mapping[str, Any], headers: Mapping[str, str] = NO_HEADERS, wait_s: float | None = None
    ) -> dict[str, Any]:
        """The provider's answer as a chat completion, within `wait_s` or the provider's seconds.

        Raises Rejected or Failed.
        """
        ask = self._ask(payload, headers, stream=False)
        with ask.in_chat_names():
            head, content = await self.endpoint.fetch(ask.url, ask.body, ask.headers, wait_s or self.wait_s)
        return completion_in(head, content, ask.dialect)

    async def stream(
        self, payload: Mapping[str, Any], headers: Mapping[str, str] = NO_HEADERS, wait_s: float | None = None
    ) -> "ProviderStream":
        """The provider's stream, once it has begun, or kept alive for a while. Raises Rejected or Failed."""
        wait_s = wait_s or self.wait_s
        ask = self._ask(payload, headers, stream=True)
        # The connection knows nothing of tokens: it gets the longer of the two waits.
        pause_s = max(wait_s, self.idle_s)
        with ask.in_chat_names():
            response = await self.endpoint.open(ask.url, ask.body, ask.headers, wait_s, pause_s)
        stream = ProviderStream(response, wait_s, self.idle_s, ask.dialect)
        try:
            await stream.read_first()
        except BaseException:
            stream.close()
            raise
        return stream

    async def embed(
        self, payload: Mapping[str, Any], headers: Mapping[str, str] = NO_HEADERS, wait_s: float | None = None
    ) -> dict[str, Any]:
        """The provider's embeddings, as they came, within `wait_s` or its seconds. Raises Rejected or Failed."""
        url, body = self.url_of(EMBEDDINGS_PATH, payload["model"]), orjson.dumps(payload)
        return embeddings_in(*await self.endpoint.fetch(url, body, headers, wait_s or self.wait_s))

    def _ask(self, payload: Mapping[str, Any], headers: Mapping[str, str], *, stream: bool) -> "_Ask":
        spoken = dialect_for(payload, self.account.dialect)
        dialect = DIALECTS[spoken]
        request, headers = with_affinity(spoken, {**self.always, **payload}, headers)
        made = dialect.request(request, stream=stream)
        if self.account.takes_max_tokens and "max_completion_tokens" in made:
            made = {**made, "max_tokens": made["max_completion_tokens"]}
            del made["max_completion_tokens"]
        return _Ask(dialect, self.url_of(dialect.path, payload["model"]), orjson.dumps(made), headers)


class _Ask(NamedTuple):
    """A request as it is sent."""

    dialect: Chat
    url: URL
    body: bytes
    headers: Mapping[str, str]

    @contextmanager
    def in_chat_names(self) -> Iterator[None]:
        """A refusal names the guard's own fields, whatever the dialect calls them."""
        try:
            yield
        except Rejected as rejected:
            raise self.dialect.in_chat_names(rejected) from None


class ProviderStream:
    """A provider's server-sent events as a chat completion's, as many at a time as come, up to [DONE] or their end."""

    def __init__(self, response: aiohttp.ClientResponse, first_token_s: float, idle_s: float, dialect: Chat) -> None:
        self.response, self.first_token_s, self.idle_s, self.dialect = response, first_token_s, idle_s, dialect
        self.events = self._events()
        self.first: list[Event] = []
        self.has_begun = False
        """Whether anything of an answer has come, which its provider may bill."""
        self.is_opened = False
        """Whether its client has been answered: then the call can go nowhere else."""
        self.ends_at: float | None = None

    async def read_first(self) -> None:
        """Up to the first chunk, or to a while of keep-alives. Raises Rejected or Failed where no answer begins."""
        opened_at = monotonic()
        async for events in self.events:
            self.first += events
            if self.has_begun or monotonic() - opened_at > self.idle_s / ALIVE_AFTER:
                break
        self.is_opened = True

    async def __aiter__(self) -> AsyncIterator[list[Event]]:
        """All events, those that came first once more. Raises Failed where the provider does not end well."""
        yield self.first
        async for events in self.events:
            yield events

    def expect_end(self, *, has_usage: bool) -> None:
        """The answer is complete: what else its provider has to say is waited for a moment only."""
        ends_at = monotonic() + (LAST_DONE_S if has_usage else LAST_WORD_S)
        self.ends_at = ends_at if self.ends_at is None else min(ends_at, self.ends_at)

    async def _events(self) -> AsyncIterator[list[Event]]:
        async for events in self._in_time():
            sound = list(takewhile(_is_sound, events))
            self.has_begun = self.has_begun or any(event.chunk is not None for event in sound)
            if sound:
                yield sound
            if len(sound) < len(events):
                raise self._meaning_of(events[len(sound)])
            if any(event.is_done for event in events):
                break
        if not self.has_begun:  # nothing was said: at most that somebody is there
            raise Failed(FailureCode.BAD_ANSWER, billed=False if self.first else None)

    def _meaning_of(self, event: Event) -> ProviderError:
        if event.is_garbage or event.chunk is None:
            return Failed(FailureCode.BAD_ANSWER, billed=None)
        meaning = meaning_of_error_within(event.chunk)
        if self.is_opened:  # too late to send the call elsewhere, or to call it the caller's error
            return Failed(meaning.code, billed=None if self.has_begun else False)
        return meaning

    async def _in_time(self) -> AsyncIterator[list[Event]]:
        """Raises Failed where the provider breaks off, or says nothing for too long.

        The first token has a limit of its own, since a model may think before it; from then on keeping alive says
        nothing.  The transport's own limit begins anew with every byte, and does not fire at all after a bad chunk.
        """
        received, left_s = self._received(), self.first_token_s
        while True:
            asked_at = monotonic()
            try:
                with failures_told():
                    async with asyncio.timeout(self._wait_s(left_s, asked_at)):
                        events = await anext(received, None)
            except Failed:
                if self.ends_at is not None and monotonic() >= self.ends_at:
                    return
                raise
            if events is None:
                return
            spoke = any(map(_says_something, events))
            left_s = self.idle_s if spoke else left_s - (monotonic() - asked_at)
            yield events

    def _wait_s(self, left_s: float, now: float) -> float:
        return left_s if self.ends_at is None else min(left_s, self.ends_at - now)

    async def _received(self) -> AsyncIterator[list[Event]]:
        """The events; where all of the answer is one document instead, those that a stream of it would have had."""
        splitter, start, read = Splitter(), b"", self.dialect.event_reader()
        pieces = self.response.content.iter_any()
        async for piece in pieces:
            start += piece
            if not start.strip(BLANK):
                continue
            if start.lstrip(BLANK).startswith(PAGE_OR_DOCUMENT):
                whole = start + await _rest_of(pieces, MOST_BYTES)
                yield events_of(completion_in(self.response.headers, whole, self.dialect))
                return
            if events := splitter.feed(start):
                yield read(events)
            break
        async for piece in pieces:
            if events := splitter.feed(piece):
                yield read(events)
        if events := splitter.end():
            yield read(events)

    def close(self) -> None:
        """Gives the connection back, or closes it where not all of it was read."""
        self.response.release()


async def _rest_of(pieces: AsyncIterator[bytes], most_bytes: int) -> bytes:
    """Raises Failed where it is longer."""
    rest = b""
    async for piece in pieces:
        rest += piece
        if len(rest) > most_bytes:
            raise Failed(FailureCode.BAD_ANSWER, billed=None)
    return rest


def completion_in(headers: Mapping[str, str], content: bytes, dialect: Chat) -> dict[str, Any]:
    """The chat completion in an answer with status 200, streamed or not. Raises Rejected or Failed."""
    if is_page(headers, content):
        raise Failed(FailureCode.ANSWERED_WITH_PAGE)
    try:
        answer = orjson.loads(content.strip(BLANK))
    except ValueError:
        answer = _completion_of_stream(content, dialect)
    else:
        answer = dialect.completion(answer)
    if is_error(answer) and not answer.get("choices"):
        raise meaning_of_error_within(answer)
    if not _is_completion(answer):
        raise Failed(FailureCode.BAD_ANSWER, billed=None)
    return cast(dict[str, Any], answer)


def _completion_of_stream(content: bytes, dialect: Chat) -> dict[str, Any] | None:
    """Raises Rejected or Failed where it holds an error, or nothing but keep-alives."""
    splitter = Splitter()
    events = dialect.event_reader()([*splitter.feed(content), *splitter.end()])
    if events and all(event.chunk is None and not event.is_garbage for event in events):
        raise Failed(FailureCode.BAD_ANSWER, billed=False)
    if (first := next((event for event in events if event.chunk is not None), None)) and is_error(first.chunk):
        raise meaning_of_error_within(first.chunk or {})
    return completion_of(takewhile(_is_sound, events))


def _is_completion(answer: Any) -> bool:
    choices = answer.get("choices") if isinstance(answer, dict) else None
    return isinstance(choices, list) and all(
        isinstance(choice, dict) and isinstance(choice.get("message"), dict) for choice in choices
    )


def _says_something(event: Event) -> bool:
    return event.chunk is not None or event.is_done


def _is_sound(event: Event) -> bool:
    return not (event.is_garbage or is_error(event.chunk))


class Providers:
    """The providers that calls can be sent to, by name, as the policy has them at the moment."""

    def __init__(self, demo_url: str | None = None) -> None:
        """`demo_url` is where the demo provider listens; it stands in for all, where none has a key."""
        self.demo_url = demo_url
        self.accounts: Mapping[str, Account] = {}
        self.by_name: dict[str, Provider] = {}
        self.connections: dict[tuple[str, bool], Connections] = {}
        """They outlive a change of a row, and with it the calls that are on their way meanwhile."""

    def follow(self, accounts: Mapping[str, Account]) -> "Providers":
        """Itself, brought in line with these. What did not change stays as it is."""
        if accounts is not self.accounts:
            self.accounts = accounts
            usable = self._usable(accounts)
            self.by_name = {name: self._provider(name, account) for name, account in usable.items()}
        return self

    def _usable(self, accounts: Mapping[str, Account]) -> dict[str, Account]:
        if self.demo_url and demo_stands_in(accounts):
            kinds = {name: account.kind for name, account in accounts.items()}
            return {name: Account(name, kind, self.demo_url, "demo") for name, kind in {**kinds, DEMO: ""}.items()}
        return {name: account for name, account in accounts.items() if account.is_usable}

    def _provider(self, name: str, account: Account) -> Provider:
        standing = self.by_name.get(name)
        if standing and standing.account == account:
            return standing
        key = (name, account.is_checked)
        if key not in self.connections:
            self.connections[key] = Connections(is_checked=account.is_checked)
        return Provider(account, self.connections[key])

    def get(self, name: str) -> Provider:
        """Raises Failed where the provider has no key."""
        try:
            return self.by_name[name]
        except KeyError:
            raise Failed(FailureCode.NO_PROVIDER_KEY) from None

    async def close(self) -> None:
        for connections in self.connections.values():
            await connections.close()
