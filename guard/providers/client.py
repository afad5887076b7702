"""The providers: one HTTP client each, and which of `guard.providers.failures` its errors are.

Imported by a worker at its start, and by nothing that a command needs: the openai package takes half a second.

xAI and OpenAI speak the same API, so both are the openai package's client with another address.  It
retries nothing: each retry would be a second bill that no hold covers.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import takewhile
from time import monotonic
from typing import Any, cast

import aiohttp
import httpx2
import openai
import orjson
from django.conf import settings
from django.utils import timezone
from openai import AsyncOpenAI, DefaultAioHttpClient
from openai._models import FinalRequestOptions

from guard.http.request_ids import NO_HEADERS
from guard.http.sse import BOM, MOST_BYTES, Event, Splitter
from guard.providers.failures import (
    Failed,
    ProviderError,
    is_error,
    is_page,
    meaning_of_error_within,
    meaning_of_status,
)
from guard.providers.stream_shapes import completion_of, events_of
from spend.codes import FailureCode

CONNECTIONS = 4096
CONNECT_TIMEOUT_S = 10.0
KEEP_ALIVE_S = 5.0
"""Well below what providers keep: a connection that they close in use is a failed call."""
CLIENT_ERRORS = (
    openai.OpenAIError,
    httpx2.HTTPError,
    aiohttp.ClientError,
    aiohttp.http_exceptions.HttpProcessingError,
    TimeoutError,
    ValueError,
)
"""What the package, its transport or the reading of an answer raises; the transport lets some of aiohttp's through."""

LAST_WORD_S = 1.5
"""How long a usage is waited for when an answer has ended; it comes on the heels of the end, or not at all."""
LAST_DONE_S = 0.5
"""How long the closing [DONE] is waited for when the usage has come, too."""
ALIVE_AFTER = 6
"""After this part of STREAM_IDLE_SECONDS a stream that is only kept alive begins so: its client may have proxies."""
PAGE_OR_DOCUMENT = (b"<", b"{")
BLANK = BOM + b" \t\r\n"


class LeanOpenAI(AsyncOpenAI):
    """The package's client, made to build its requests once: they differ in body, timeout and tracing only.

    Merging addresses, headers and queries anew for each cost a quarter of a guarded call.
    """

    address: httpx2.URL | None = None
    fixed_headers: list[tuple[bytes, bytes]]

    def _build_request(self, options: FinalRequestOptions, *, retries_taken: int = 0) -> httpx2.Request:
        if self.address is None:
            first = super()._build_request(options, retries_taken=retries_taken)
            own = {name.lower().encode() for name in _given(options.headers)} | {b"content-length"}
            self.fixed_headers = [(name, value) for name, value in first.headers.raw if name.lower() not in own]
            self.address = first.url
        timeout = self.timeout if isinstance(options.timeout, openai.NotGiven) else options.timeout
        assert isinstance(timeout, httpx2.Timeout)  # noqa: S101
        return httpx2.Request(
            "POST",
            self.address,
            headers=[
                *self.fixed_headers,
                *((name.encode(), value.encode()) for name, value in _given(options.headers).items()),
            ],
            content=cast(bytes, options.content),
            extensions={"timeout": timeout.as_dict()},
        )


def _given(headers: Any) -> Mapping[str, str]:
    return headers if isinstance(headers, Mapping) else NO_HEADERS


class Provider:
    """One provider's client."""

    def __init__(self, name: str, base_url: str, api_key: str) -> None:
        self.name = name
        # Unsaid, a project's own setting holds, and priority costs more than the list price that was held.
        self.always = {"service_tier": "default"} if name == "openai" else {}
        self.client = LeanOpenAI(
            api_key=api_key,
            base_url=base_url,
            max_retries=0,
            timeout=_timeout(settings.PROVIDER_TIMEOUT_SECONDS),
            http_client=DefaultAioHttpClient(
                follow_redirects=False,  # a prompt goes to the address that was configured, and to no other
                limits=httpx2.Limits(
                    max_connections=CONNECTIONS,
                    max_keepalive_connections=CONNECTIONS,
                    keepalive_expiry=KEEP_ALIVE_S,
                ),
            ),
        )

    async def complete(
        self, payload: Mapping[str, Any], headers: Mapping[str, str] = NO_HEADERS, wait_s: float | None = None
    ) -> dict[str, Any]:
        """The provider's answer to a chat completion, as it came, within `wait_s` or the setting's seconds.

        Raises Rejected or Failed. The answer is not read into the package's own types: that costs as
        much as everything else a call does, and would drop fields they do not know.
        """
        with _failures_told():
            async with asyncio.timeout(CONNECT_TIMEOUT_S + (wait_s or settings.PROVIDER_TIMEOUT_SECONDS)):
                response = await self.client.post(
                    "/chat/completions",
                    content=orjson.dumps({**self.always, **payload}),
                    cast_to=httpx2.Response,
                    options={"headers": headers, "timeout": _timeout(wait_s)} if wait_s else {"headers": headers},
                )
        return completion_in(response.headers, response.content)

    async def stream(
        self, payload: Mapping[str, Any], headers: Mapping[str, str] = NO_HEADERS, wait_s: float | None = None
    ) -> "ProviderStream":
        """The provider's stream, once it has begun, or kept alive for a while. Raises Rejected or Failed.

        Usage is asked of the provider always: it is what the stream is settled by.
        """
        options = {**payload.get("stream_options", {}), "include_usage": True}
        asked = {**self.always, **payload, "stream": True, "stream_options": options}
        wait_s = wait_s or settings.PROVIDER_TIMEOUT_SECONDS
        # The transport knows nothing of tokens: it gets the longer of the two waits.
        timeout = _timeout(max(wait_s, settings.STREAM_IDLE_SECONDS))
        with _failures_told():
            async with asyncio.timeout(CONNECT_TIMEOUT_S + wait_s):
                response = await self.client.post(
                    "/chat/completions",
                    content=orjson.dumps(asked),
                    cast_to=httpx2.Response,
                    stream=True,
                    stream_cls=openai.AsyncStream[httpx2.Response],
                    options={"timeout": timeout, "headers": headers},
                )
        # What `cast_to` asks for is what comes, whatever the package's types say of streams.
        stream = ProviderStream(cast(httpx2.Response, response), wait_s)
        try:
            await stream.read_first()
        except BaseException:
            await stream.close()
            raise
        return stream

    async def close(self) -> None:
        await self.client.close()


class ProviderStream:
    """A provider's server-sent events, as many at a time as come, up to its [DONE] or its end."""

    def __init__(self, response: httpx2.Response, first_token_s: float) -> None:
        self.response, self.first_token_s = response, first_token_s
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
            if self.has_begun or monotonic() - opened_at > settings.STREAM_IDLE_SECONDS / ALIVE_AFTER:
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
                with _failures_told():
                    async with asyncio.timeout(self._wait_s(left_s, asked_at)):
                        events = await anext(received, None)
            except Failed:
                if self.ends_at is not None and monotonic() >= self.ends_at:
                    return
                raise
            if events is None:
                return
            spoke = any(map(_says_something, events))
            left_s = settings.STREAM_IDLE_SECONDS if spoke else left_s - (monotonic() - asked_at)
            yield events

    def _wait_s(self, left_s: float, now: float) -> float:
        return left_s if self.ends_at is None else min(left_s, self.ends_at - now)

    async def _received(self) -> AsyncIterator[list[Event]]:
        """The events; where all of the answer is one document instead, those that a stream of it would have had."""
        splitter, start = Splitter(), b""
        pieces = self.response.aiter_bytes()
        async for piece in pieces:
            start += piece
            if not start.strip(BLANK):
                continue
            if start.lstrip(BLANK).startswith(PAGE_OR_DOCUMENT):
                yield events_of(completion_in(self.response.headers, start + await _rest_of(pieces, MOST_BYTES)))
                return
            if events := splitter.feed(start):
                yield events
            break
        async for piece in pieces:
            if events := splitter.feed(piece):
                yield events
        if events := splitter.end():
            yield events

    async def close(self) -> None:
        """Closes the connection, unless all of it was read. Never fails."""
        with suppress(*CLIENT_ERRORS):
            await self.response.aclose()


async def _rest_of(pieces: AsyncIterator[bytes], most_bytes: int) -> bytes:
    """Raises Failed where it is longer."""
    rest = b""
    async for piece in pieces:
        rest += piece
        if len(rest) > most_bytes:
            raise Failed(FailureCode.BAD_ANSWER, billed=None)
    return rest


def completion_in(headers: Mapping[str, str], content: bytes) -> dict[str, Any]:
    """The chat completion in an answer with status 200, streamed or not. Raises Rejected or Failed."""
    if is_page(headers, content):
        raise Failed(FailureCode.ANSWERED_WITH_PAGE)
    try:
        answer = orjson.loads(content.strip(BLANK))
    except ValueError:
        answer = _completion_of_stream(content)
    if is_error(answer) and not answer.get("choices"):
        raise meaning_of_error_within(answer)
    if not _is_completion(answer):
        raise Failed(FailureCode.BAD_ANSWER, billed=None)
    return cast(dict[str, Any], answer)


def _completion_of_stream(content: bytes) -> dict[str, Any] | None:
    """Raises Rejected or Failed where it holds an error, or nothing but keep-alives."""
    splitter = Splitter()
    events = [*splitter.feed(content), *splitter.end()]
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


def _timeout(read_s: float) -> httpx2.Timeout:
    return httpx2.Timeout(read_s, connect=CONNECT_TIMEOUT_S)


@contextmanager
def _failures_told() -> Iterator[None]:
    """Whatever the client raises within, told as Rejected or Failed."""
    try:
        yield
    except CLIENT_ERRORS as error:
        raise _meaning_of(error) from None


def _meaning_of(error: BaseException) -> ProviderError:
    if isinstance(error, openai.APIStatusError):
        response = error.response
        return meaning_of_status(response.status_code, response.headers, response.content, timezone.now())
    if isinstance(error, openai.APIConnectionError):
        return _connection_error(error)
    if isinstance(error, TimeoutError | httpx2.TimeoutException):
        return Failed(FailureCode.TIMEOUT, billed=None)
    return Failed(
        FailureCode.CONNECTION_FAILED if isinstance(error, httpx2.TransportError) else FailureCode.BAD_ANSWER,
        billed=None,
    )


def _connection_error(error: openai.APIConnectionError) -> Failed:
    """A request that never reached the provider billed nothing; of one cut off later nobody knows.

    The client's transport calls nearly all of aiohttp's errors a ConnectTimeout: only the root tells.
    """
    root = error.__cause__ and error.__cause__.__cause__
    never_sent = isinstance(root, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError)
    code = FailureCode.TIMEOUT if isinstance(root, aiohttp.ServerTimeoutError) else FailureCode.CONNECTION_FAILED
    return Failed(code, billed=False if never_sent else None)


class Providers:
    """The configured providers by name."""

    def __init__(self, demo_url: str | None = None) -> None:
        """`demo_url` is where the demo provider listens; it stands in for all, where no key is set."""
        addresses = {
            "xai": (settings.XAI_BASE_URL, settings.XAI_API_KEY),
            "openai": (settings.OPENAI_BASE_URL, settings.OPENAI_API_KEY),
        }
        if demo_url:
            addresses = dict.fromkeys(("xai", "openai", "demo"), (demo_url, "demo"))
        self.by_name = {name: Provider(name, url, key) for name, (url, key) in addresses.items() if key}

    def get(self, name: str) -> Provider:
        """Raises Failed where the provider has no key."""
        try:
            return self.by_name[name]
        except KeyError:
            raise Failed(FailureCode.NO_PROVIDER_KEY) from None

    async def close(self) -> None:
        for provider in self.by_name.values():
            await provider.close()
