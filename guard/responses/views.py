"""`POST /v1/responses`: parse, have it served as any chat call, shape the answer."""

from dataclasses import dataclass, field
from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseBase

from guard.chat.endpoints import ChatView, Exchange, headers_of
from guard.chat.request.reader import Asked, read_completion
from guard.chat.streaming import Relay
from guard.chat.types import Answer, Opened
from guard.http.errors import GuardError
from guard.http.sse import Splitter
from guard.responses.answer import repeated, response_of
from guard.responses.events import Events, as_bytes
from guard.responses.items import read_input
from guard.responses.parameters import check_parameters
from guard.responses.relay import ResponseRelay, told
from guard.responses.request import CHAT_NAMES, chat_request
from guard.worker.runtime import Runtime

ADAPTED_HEADER = "X-Guard-Adapted"


@dataclass(frozen=True, slots=True)
class AskedResponse(Asked):
    repeated: dict[str, Any] = field(default_factory=dict)
    """What the response says of its request."""


def read_response(body: Any) -> AskedResponse:
    """Raises InvalidRequest naming the field."""
    check_parameters(body)
    asked = read_completion(chat_request(body, read_input(body.get("input"))))
    facts = {name: getattr(asked, name) for name in Asked.__slots__}
    return AskedResponse(**facts, repeated=repeated(body))


class ResponsesEndpoint(ChatView):
    def read(self, data: Any) -> Asked:
        return read_response(data)

    async def post(self, request: HttpRequest) -> HttpResponseBase:
        try:
            answered = await self.exchange(request)
        except GuardError as error:
            raise in_our_names(error) from error
        if adapted := answered.headers.get(ADAPTED_HEADER):
            answered.headers[ADAPTED_HEADER] = ",".join(map(our_name, adapted.split(",")))
        return answered

    def body(self, answer: Answer, exchange: Exchange) -> dict[str, Any]:
        assert answer.call_id  # noqa: S101
        assert isinstance(exchange.asked, AskedResponse)  # noqa: S101
        return response_of(answer.call_id, answer.model, exchange.asked.repeated, answer.completion, answer.usage)

    def relay(self, opened: Opened, exchange: Exchange, runtime: Runtime) -> Relay:
        reserved = opened.hold.reserved
        events = self._events(reserved.caller.call_id, reserved.offer.model, exchange)
        return ResponseRelay(
            opened,
            runtime,
            path=exchange.request.path,
            show_usage=False,
            closing=lambda answer: as_bytes(events.complete(answer.usage)),
            events=events,
        )

    def replayed(self, answer: Answer, exchange: Exchange) -> HttpResponseBase:
        if not exchange.asked.stream:
            return super().replayed(answer, exchange)
        events = self._events(answer.call_id, answer.model, exchange)
        body = as_bytes(events.begin()) + told(Splitter().feed(answer.completion["events"].encode()), events)
        headers = {**headers_of(answer, exchange), "Idempotent-Replayed": "true"}
        body += as_bytes(events.complete(answer.usage))
        return HttpResponse(body, content_type="text/event-stream", headers=headers)

    def _events(self, call_id: Any, model: str, exchange: Exchange) -> Events:
        assert isinstance(exchange.asked, AskedResponse)  # noqa: S101
        return Events(call_id, model, exchange.asked.repeated)


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
