"""`POST /v1/responses`: parse, have it served as any chat call, shape the answer."""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from django.http import HttpRequest, HttpResponseBase

from guard.call import ChatCall
from guard.chat.endpoints import ChatView, Exchange, headers_of
from guard.chat.flow import converse
from guard.chat.request.reader import CallRequest, read_completion, with_headers
from guard.chat.streaming import Relay
from guard.chat.types import Answer, Opened
from guard.http.async_view import json_answer
from guard.http.errors import GuardError, refuse
from guard.http.sse import Splitter
from guard.policy.snapshot import KeyPolicy, Policy
from guard.responses.answer import repeated, response_of
from guard.responses.events import Events, as_bytes
from guard.responses.items import read_input
from guard.responses.memory import NO_MEMORY, PARAM, Memory, Source, calls_referred_to, dereferenced, keep, recall
from guard.responses.parameters import check_parameters
from guard.responses.relay import ResponseRelay, told
from guard.responses.request import CHAT_NAMES, chat_request
from guard.telemetry.content_capture import keeps_content
from guard.worker.runtime import Runtime

Json = dict[str, Any]

ADAPTED_HEADER = "X-Guard-Adapted"


@dataclass(frozen=True, slots=True)
class ResponseRequest(CallRequest):
    repeated: Json = field(default_factory=dict)
    """What the response says of its request."""
    given: list[Json] = field(default_factory=list)
    """The items of its input as they came."""
    items: list[Json] = field(default_factory=list)
    """The same, with what they refer to in its place."""
    memory: Memory = NO_MEMORY
    """What it goes on from."""

    @property
    def is_kept(self) -> bool:
        return bool(self.repeated["store"])


def read_response(
    body: Any, memory: Memory = NO_MEMORY, *, given: list[Json] | None = None, keeps: bool = False
) -> ResponseRequest:
    """A request whose parameters are checked, and whose references are looked up: then `given` is its input before.

    `keeps` is whether the tenant keeps responses. Raises InvalidRequest.
    """
    items = read_input(body.get("input"), memory.items)
    # What is sent whole is bounded by its body.
    whole = memory.then(items) if memory.calls or given else items
    asked = read_completion(chat_request(body, whole))
    facts = {name: getattr(asked, name) for name in CallRequest.__slots__}
    is_kept = keeps and body.get("store") is not False
    return ResponseRequest(
        **facts, repeated=repeated(body, store=is_kept), given=given or items, items=items, memory=memory
    )


def with_sources(asked: ResponseRequest, sources: Iterable[Source]) -> ResponseRequest:
    """Customer and conversation of what it goes on from, where the request names none. Raises InvalidRequest.

    Else words of one customer would be kept as another's, and not go when the first is erased.
    """
    for param, customer, conversation in sources:
        if customer and asked.customer not in ("", customer):
            raise refuse(param, "was answered to another customer than this request's.")
        asked = replace(asked, customer=asked.customer or customer, conversation=asked.conversation or conversation)
    return asked


class ResponsesEndpoint(ChatView):
    async def read_call(self, data: Any, request: HttpRequest, key: KeyPolicy, runtime: Runtime) -> CallRequest:
        check_parameters(data)
        previous = data.get(PARAM)
        memory = NO_MEMORY if previous is None else await recall(previous, key.tenant, runtime)
        given = data.get("input")
        items, sources = await dereferenced(given, key.tenant, runtime)
        asked = read_response(
            {**data, "input": items}, memory, given=None if items is given else given, keeps=keeps_content(key.tenant)
        )
        return with_sources(with_headers(asked, request.headers), [*memory.sources, *sources])

    async def post(self, request: HttpRequest) -> HttpResponseBase:
        try:
            answered = await self.exchange(request)
        except GuardError as error:
            raise in_our_names(error) from error
        if adapted := answered.headers.get(ADAPTED_HEADER):
            answered.headers[ADAPTED_HEADER] = ",".join(map(our_name, adapted.split(",")))
        return answered

    def call(self, exchange: Exchange, policy: Policy) -> ChatCall:
        asked = exchange.asked
        assert isinstance(asked, ResponseRequest)  # noqa: S101
        calls = dict.fromkeys([*asked.memory.calls, *calls_referred_to(asked.given)])
        return replace(super().call(exchange, policy), goes_on_from=tuple(calls))

    async def answered(self, call: ChatCall, exchange: Exchange, runtime: Runtime) -> HttpResponseBase:
        async def serve() -> tuple[Json, Answer]:
            answer = await converse(call, runtime)
            return await keeper(call, exchange, runtime)(self.body(answer, exchange)), answer

        body, answer = await runtime.paid(serve())
        return json_answer(body, headers_of(answer, exchange))

    def body(self, answer: Answer, exchange: Exchange) -> Json:
        assert answer.call_id  # noqa: S101
        assert isinstance(exchange.asked, ResponseRequest)  # noqa: S101
        return response_of(answer.call_id, answer.model, exchange.asked.repeated, answer.completion, answer.usage)

    def relay(self, opened: Opened, exchange: Exchange, runtime: Runtime) -> Relay:
        reserved = opened.hold.reserved
        events = self._events(reserved.caller.call_id, reserved.offer.model, exchange)
        return ResponseRelay(
            opened,
            runtime,
            path=exchange.request.path,
            show_usage=False,
            events=events,
            keep=keeper(opened.progress.call, exchange, runtime),
        )

    def handed_off(self, answer: Answer, exchange: Exchange) -> HttpResponseBase:
        """A response that says that it is not kept, since no call was answered that one could go on from."""
        asked = exchange.asked
        assert isinstance(asked, ResponseRequest)  # noqa: S101
        told = replace(asked, repeated={**asked.repeated, "store": False})
        return super().handed_off(answer, replace(exchange, asked=told))

    def events(self, answer: Answer, exchange: Exchange) -> bytes:
        events = self._events(answer.call_id, answer.model, exchange)
        body = as_bytes(events.begin()) + told(Splitter().feed(answer.completion["events"].encode()), events)
        return body + as_bytes(events.complete(answer.usage))

    def _events(self, call_id: Any, model: str, exchange: Exchange) -> Events:
        assert isinstance(exchange.asked, ResponseRequest)  # noqa: S101
        return Events(call_id, model, exchange.asked.repeated)


def keeper(call: ChatCall, exchange: Exchange, runtime: Runtime) -> Callable[[Json], Awaitable[Json]]:
    return partial(_keep, call, exchange, runtime)


async def _keep(call: ChatCall, exchange: Exchange, runtime: Runtime, response: Json) -> Json:
    """The response, once it is kept where it is to be."""
    asked = exchange.asked
    assert isinstance(asked, ResponseRequest)  # noqa: S101
    return (
        await keep(asked.memory.turn(asked.given, asked.items, response), call, runtime) if asked.is_kept else response
    )


def our_name(name: str) -> str:
    """A chat completion's field by the name that it has here."""
    first = name.split(".", 1)[0]
    return CHAT_NAMES.get(first, name)


def in_our_names(error: GuardError) -> GuardError:
    """The error of the guarded call, naming a field of this API."""
    if error.param is None or (name := our_name(error.param)) == error.param:
        return error
    message = str(error)
    if message.startswith(f"{error.param}: "):
        message = name + message.removeprefix(error.param)
    return type(error)(
        message,
        param=name,
        retry_after_s=error.retry_after_s,
        headers=error.headers,
        should_retry=error.should_retry,
        **error.extras,
    )
