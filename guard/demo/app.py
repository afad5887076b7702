"""The demo provider's ASGI application: routes, timing, and the ways to fail."""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
from itertools import count
from typing import Any
from zlib import crc32

import orjson

from guard.demo import embeddings, responses
from guard.demo.behaviours import PLAIN, Behaviour, Ending, Record, Script
from guard.demo.completions import BadRequestError, Json, answer_to, chunks, completion, error_body, read_request
from guard.demo.strictness import RefusedError, check_request

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]

Respond = Callable[["Exchange", Json, Behaviour], Awaitable[None]]

DEMO_MODELS = ("demo-large", "demo-small", "demo-embedding")
JSON_TYPE = (b"content-type", b"application/json")
STREAM_HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
CHUNKS_A_LATENCY = 20
AZURE = re.compile(r"/openai(?:/deployments/[^/]+)?(/(?:chat/completions|embeddings|responses|models))")


class ClientGoneError(Exception):
    """The client closed its connection."""


class BrokenOffError(Exception):
    """The connection was closed on purpose."""


class Exchange:
    """One request and its answer."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope, self.receive, self.send = scope, receive, send

    async def body(self) -> bytes:
        message = await self.receive()
        body: bytes = message.get("body", b"")
        while message.get("more_body"):
            message = await self.receive()
            body += message.get("body", b"")
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        return body

    async def start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        await self.send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, part: bytes, more: bool = True) -> None:
        await self.send({"type": "http.response.body", "body": part, "more_body": more})

    async def answer(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        length = (b"content-length", str(len(body)).encode())
        given = _raw(headers or {})
        kind = [] if any(name == JSON_TYPE[0] for name, _ in given) else [JSON_TYPE]
        await self.start(status, [*kind, length, *given])
        await self.write(body, more=False)

    async def pause(self, seconds: float | None) -> None:
        """Wait (for ever, where None); raises ClientGoneError as soon as the client is."""
        if seconds == 0:
            return
        try:
            async with asyncio.timeout(seconds):
                await self.gone()
        except TimeoutError:
            return
        raise ClientGoneError

    async def gone(self) -> None:
        while (await self.receive())["type"] != "http.disconnect":
            pass

    async def write_wire(self, pieces: list[str], delay_s: float) -> None:
        """Write to the socket past HTTP. Needs `guard.demo.serving`'s protocol."""
        for number, piece in enumerate(pieces):
            await self.pause(delay_s if number else 0)
            self.scope["guard.demo.transport"].write(piece.encode())

    async def drop(self) -> None:
        """Close the socket as a crashed provider would. Needs `guard.demo.serving`'s protocol."""
        self.scope["guard.demo.transport"].close()
        await self.gone()
        raise BrokenOffError


def _raw(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]


def usual_path(scope: Scope) -> str:
    """Of an address as Azure or OpenRouter have it the usual one; Azure's needs its version and its key's header."""
    path: str = scope["path"]
    if path.startswith("/api/v1/"):
        return path.removeprefix("/api")
    if not (azure := AZURE.fullmatch(path)):
        return path
    has_key = any(name == b"api-key" for name, _ in scope["headers"])
    return f"/v1{azure[1]}" if has_key and b"api-version=" in scope["query_string"] else path


def _asked_for(exchange: Exchange) -> str:
    query = exchange.scope["query_string"].decode()
    return f"{exchange.scope['path']}{f'?{query}' if query else ''}"


async def _not_found(exchange: Exchange) -> None:
    message = f"Unknown request URL: {exchange.scope['method']} {exchange.scope['path']}."
    await exchange.answer(404, orjson.dumps(error_body(404, message)))


class DemoProvider:
    """The application. `script` None is the product's: nothing can be controlled and nothing is logged."""

    def __init__(self, latency_s: float, script: Script | None) -> None:
        self.latency_s, self.script = latency_s, script
        self.numbers = count(1)
        self.routes: dict[tuple[str, str], Callable[[Exchange], Awaitable[None]]] = {
            ("POST", "/v1/chat/completions"): self.chat,
            ("POST", "/v1/embeddings"): self.embed,
            ("POST", "/v1/responses"): self.responses,
            ("GET", "/v1/models"): self.models,
        }
        if script is not None:
            self.routes |= controls(script)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, send)
        handle = self.routes.get((scope["method"], usual_path(scope)))
        try:
            await (handle or _not_found)(exchange)
        except BadRequestError as error:
            await exchange.answer(400, orjson.dumps(error_body(400, str(error), error.param)))
        except RefusedError as error:
            await exchange.answer(400, orjson.dumps(error.body))
        except (ClientGoneError, BrokenOffError):
            pass

    async def models(self, exchange: Exchange) -> None:
        data = [{"id": model, "object": "model", "created": 0, "owned_by": "demo"} for model in DEMO_MODELS]
        await exchange.answer(200, orjson.dumps({"object": "list", "data": data}))

    async def chat(self, exchange: Exchange) -> None:
        body = await exchange.body()
        await self.serve(exchange, body, read_request(body), self.respond)

    async def responses(self, exchange: Exchange) -> None:
        body = await exchange.body()
        await self.serve(exchange, body, responses.read_request(body), self.respond_with_response)

    async def embed(self, exchange: Exchange) -> None:
        body = await exchange.body()
        await self.serve(exchange, body, embeddings.read_request(body), self.respond_with_vectors)

    async def serve(self, exchange: Exchange, body: bytes, request: Json, respond: Respond) -> None:
        if self.script is None:
            await respond(exchange, request, PLAIN)
            return
        record = self.script.record(request["model"], body, exchange.scope["headers"], _asked_for(exchange))
        await _recorded(record, respond(exchange, request, self.script.behaviour_for(request["model"])))

    async def respond_with_vectors(self, exchange: Exchange, request: Json, behaviour: Behaviour) -> None:
        if not await self.misbehaves(exchange, request, behaviour):
            await _whole(exchange, orjson.dumps(embeddings.answer_to(request, behaviour)), behaviour)

    async def misbehaves(self, exchange: Exchange, request: Json, behaviour: Behaviour) -> bool:
        """Whether it was told to fail, or what to answer; then it has."""
        if behaviour.break_connection == "before":
            await exchange.drop()
        if behaviour.wire is not None:
            await exchange.write_wire(behaviour.wire, behaviour.chunk_delay_s or 0)
            await (exchange.pause(None) if behaviour.hang else exchange.drop())
        await exchange.pause(None if behaviour.hang else self._latency_of(request, behaviour))
        if behaviour.status is not None or behaviour.body is not None:
            await exchange.answer(behaviour.status or 200, _verbatim(behaviour), behaviour.headers)
            return True
        return False

    async def respond(self, exchange: Exchange, request: Json, behaviour: Behaviour) -> None:
        if await self.misbehaves(exchange, request, behaviour):
            return
        if behaviour.strict:
            check_request(request, behaviour.context_tokens)
        answer = answer_to(request, behaviour)
        call_id, created = f"chatcmpl-demo-{next(self.numbers)}", int(time.time())
        if request.get("stream"):
            bodies = chunks(request, answer, behaviour, call_id, created)
            await _stream(exchange, (b"data: %b\n\n" % orjson.dumps(body) for body in bodies), behaviour,
                          self._delay_of(behaviour), last=b"data: [DONE]\n\n")  # fmt: skip
        else:
            await _whole(exchange, orjson.dumps(completion(request, answer, call_id, created)), behaviour)

    async def respond_with_response(self, exchange: Exchange, request: Json, behaviour: Behaviour) -> None:
        if await self.misbehaves(exchange, request, behaviour):
            return
        chat = responses.chat_request(request)
        if behaviour.strict:
            responses.check_shape(request)
            try:
                check_request(chat, behaviour.context_tokens, tools_while_reasoning=True)
            except RefusedError as refused:
                raise RefusedError(responses.in_our_names(refused.body)) from None
        answer = answer_to(chat, behaviour)
        number, created = next(self.numbers), int(time.time())
        if request.get("stream"):
            events = responses.events(request, answer, behaviour, number, created)
            await _stream(exchange, map(_typed, events), behaviour, self._delay_of(behaviour))
        else:
            await _whole(exchange, orjson.dumps(responses.response(request, answer, number, created)), behaviour)

    def _delay_of(self, behaviour: Behaviour) -> float:
        return self.latency_s / CHUNKS_A_LATENCY if behaviour.chunk_delay_s is None else behaviour.chunk_delay_s

    def _latency_of(self, request: Json, behaviour: Behaviour) -> float:
        """As told, else the usual one, a quarter more or less, the same for the same words."""
        if behaviour.latency_s is not None:
            return behaviour.latency_s
        if self.latency_s == 0:
            return 0
        said = request.get("messages") or request["input"]
        return self.latency_s * (0.75 + crc32(orjson.dumps(said)) % 51 / 100)


async def _recorded(record: Record, answering: Awaitable[None]) -> None:
    ending: Ending = "disconnected"
    try:
        await answering
        ending = "finished"
    except RefusedError:
        ending = "finished"
        raise
    except BrokenOffError:
        ending = "broken"
        raise
    finally:
        record.end(ending)


def _verbatim(behaviour: Behaviour) -> bytes:
    if behaviour.body is None:
        status = behaviour.status or 200
        return orjson.dumps(error_body(status, f"The demo provider was told to answer {status}."))
    return behaviour.body.encode() if isinstance(behaviour.body, str) else orjson.dumps(behaviour.body)


async def _whole(exchange: Exchange, body: bytes, behaviour: Behaviour) -> None:
    if not behaviour.break_connection:
        await exchange.answer(200, body, behaviour.headers)
        return
    await exchange.start(200, [JSON_TYPE, (b"content-length", str(len(body)).encode()), *_raw(behaviour.headers)])
    await exchange.write(body[: len(body) // 2])
    await exchange.drop()


def _typed(event: Json) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (str(event.get("type")).encode(), orjson.dumps(event))


async def _stream(
    exchange: Exchange, events: Iterator[bytes], behaviour: Behaviour, delay_s: float, last: bytes = b""
) -> None:
    await exchange.start(200, [*STREAM_HEADERS, *_raw(behaviour.headers)])
    break_after = 1 if behaviour.break_connection else behaviour.break_after_chunks
    for sent, event in enumerate(events):
        if sent == break_after:
            await exchange.drop()
        if sent == behaviour.stall_after_chunks:
            await exchange.pause(None)
        if sent == behaviour.garbage_after_chunks:
            await exchange.write(b"data: {this is no JSON\n\n", more=False)
            return
        await exchange.pause(delay_s if sent else 0)
        await exchange.write(event)
    await exchange.write(last, more=False)


def controls(script: Script) -> dict[tuple[str, str], Callable[[Exchange], Awaitable[None]]]:
    """The routes by which a test says what shall happen and asks what did."""

    async def learn(exchange: Exchange) -> None:
        try:
            script.learn(orjson.loads(await exchange.body()))
        except (ValueError, TypeError, AttributeError) as error:
            raise BadRequestError(str(error)) from error
        await exchange.answer(200, b"{}")

    async def forget_behaviours(exchange: Exchange) -> None:
        script.forget_behaviours()
        await exchange.answer(200, b"{}")

    async def calls(exchange: Exchange) -> None:
        shown = [record.as_json() for record in script.calls]
        await exchange.answer(200, orjson.dumps({"total": script.total, "calls": shown}))

    async def forget_calls(exchange: Exchange) -> None:
        script.forget_calls()
        await exchange.answer(200, b"{}")

    return {
        ("POST", "/control/behaviours"): learn,
        ("DELETE", "/control/behaviours"): forget_behaviours,
        ("GET", "/control/calls"): calls,
        ("DELETE", "/control/calls"): forget_calls,
    }


def create_app(*, latency_s: float = 0.4, controllable: bool = False) -> AsgiApp:
    """The demo provider as an ASGI application.

    `latency_s` is the time to an answer (give or take a quarter; 0 for none) where no behaviour says
    otherwise; `controllable` adds the control routes, for tests and benches.
    """
    return DemoProvider(latency_s, Script() if controllable else None)
