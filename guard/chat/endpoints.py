"""The two chat endpoints: parse, call `converse` or `open_stream`, shape the answer."""

import logging
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, TypeVar

from django.db import Error
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.utils import timezone

from guard.call import ChatCall, Claim
from guard.chat import idempotency
from guard.chat.billing import tokens_only
from guard.chat.flow import converse, open_stream
from guard.chat.handoff import HANDOFF_ROUTE, HandedOff, with_events
from guard.chat.request.reader import CallRequest, read_chat, read_completion, with_headers
from guard.chat.settlement import lowered_max_tokens
from guard.chat.streaming import Relay, Streamed, replayed_events
from guard.chat.types import Answer, Opened
from guard.http.async_view import AsyncAPIView, json_answer, read_body
from guard.http.authentication import refuse_disabled, secret_of, valid
from guard.http.errors import Forbidden, InvalidRequest, LedgerUnavailable
from guard.http.request_ids import context_of, line_of, request_id_of
from guard.http.sse import DONE, encode
from guard.policy.budget_status import BudgetStatus
from guard.policy.snapshot import KeyPolicy, ModelPolicy, Policy
from guard.providers.deltas import text_of
from guard.worker.runtime import Runtime
from spend.ids import new_id
from spend.ledger.rules import Caller
from spend.models import AUTO
from tenants.models import KEY_PREFIX, digest_of
from tenants.money import usd_string

MOST_KEY_LENGTH = 255

AnyCall = TypeVar("AnyCall", bound=ChatCall)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request on its way to its answer. `request_id` is that of the call which answers it."""

    request: HttpRequest
    key: KeyPolicy
    asked: CallRequest
    request_id: str

    @property
    def hides_money(self) -> bool:
        return self.key.tenant.hide_money


class ChatView(AsyncAPIView):
    """What both endpoints share: the way from a request to an answer."""

    # DRF's own OPTIONS is no coroutine, and the schema says what there is.
    http_method_names = ("post",)

    def read(self, data: Any) -> CallRequest:
        """The request's JSON as a call. Raises InvalidRequest naming the field."""
        raise NotImplementedError

    async def read_call(self, data: Any, request: HttpRequest, key: KeyPolicy, runtime: Runtime) -> CallRequest:
        """The request as a call. Raises InvalidRequest naming the field or the header."""
        return with_headers(self.read(data), request.headers)

    def call(self, exchange: Exchange, policy: Policy) -> ChatCall:
        """The call, once the tenant and the model it names are allowed. Raises Forbidden or InvalidRequest."""
        if exchange.asked.tenant_id not in (None, exchange.key.tenant.id):
            raise Forbidden("This key belongs to another tenant.")
        check_model(exchange.asked.ask.model, exchange.key, policy)
        return call_of(exchange, ChatCall)

    async def exchange(self, request: HttpRequest) -> HttpResponseBase:
        runtime = runtime_of(request)
        key = await authenticate(request, runtime)
        line_of(request).asked(data := read_body(request))
        asked = await self.read_call(data, request, key, runtime)
        exchange = Exchange(request, key, asked, request_id_of(request))
        call = self.call(exchange, runtime.policy)
        claim = await claim_key(request, call, runtime)
        if isinstance(claim, Answer):
            line_of(request).replayed(claim.model, str(claim.route))
            return self.replayed(claim, replace(exchange, request_id=claim.request_id))
        call = replace(call, claim=claim) if claim else call
        try:
            return await self.served(call, exchange, runtime)
        except HandedOff as handoff:
            return self.handed_off(handoff.answer, exchange)

    async def served(self, call: ChatCall, exchange: Exchange, runtime: Runtime) -> HttpResponseBase:
        if exchange.asked.stream:
            return await self.streamed(call, exchange, runtime)
        return await self.answered(call, exchange, runtime)

    def handed_off(self, answer: Answer, exchange: Exchange) -> HttpResponseBase:
        asked = exchange.asked
        answer = with_events(answer, show_usage=asked.show_usage) if asked.stream else answer
        return self.told_at_once(answer, exchange)

    async def answered(self, call: ChatCall, exchange: Exchange, runtime: Runtime) -> HttpResponseBase:
        answer = await runtime.paid(converse(call, runtime))
        return json_answer(self.body(answer, exchange), headers_of(answer, exchange))

    async def streamed(self, call: ChatCall, exchange: Exchange, runtime: Runtime) -> HttpResponseBase:
        async def open_relay() -> Relay:
            return self.relay(await open_stream(call, runtime), exchange, runtime)

        relay = await runtime.paid(open_relay(), Relay.aclose)
        hold, adapted = relay.opened.hold, relay.opened.progress.adapted
        offer, status = hold.reserved.offer, hold.status(call.tenant)
        headers = served_headers(offer.model, str(offer.route), status, exchange)
        changes = headers_of_changes(adapted.names if adapted else (), lowered_max_tokens(hold, call))
        return Streamed(relay, {**headers, **changes})

    def relay(self, opened: Opened, exchange: Exchange, runtime: Runtime) -> Relay:
        return Relay(
            opened,
            runtime,
            path=exchange.request.path,
            show_usage=exchange.asked.show_usage,
            closing=lambda answer: self.closing(answer, exchange),
        )

    def replayed(self, answer: Answer, exchange: Exchange) -> HttpResponseBase:
        response = self.told_at_once(answer, exchange)
        response.headers["Idempotent-Replayed"] = "true"
        return response

    def told_at_once(self, answer: Answer, exchange: Exchange) -> HttpResponseBase:
        """An answer that is there already: a replay, or a hand-off."""
        headers = headers_of(answer, exchange)
        if exchange.asked.stream:
            return HttpResponse(self.events(answer, exchange), content_type="text/event-stream", headers=headers)
        return json_answer(self.body(answer, exchange), headers)

    def events(self, answer: Answer, exchange: Exchange) -> bytes:
        """All of a stream whose events are there already."""
        shown = replayed_events(answer.completion["events"], answer.model, hide_money=exchange.hides_money)
        return shown + self.closing(answer, exchange)

    def body(self, answer: Answer, exchange: Exchange) -> dict[str, Any]:
        raise NotImplementedError

    def closing(self, answer: Answer, exchange: Exchange) -> bytes:
        """The events that end a stream once it is settled."""
        return DONE


class ChatEndpoint(ChatView):
    """`POST /api/chat`: the guard's own shape."""

    def read(self, data: Any) -> CallRequest:
        return read_chat(data)

    async def post(self, request: HttpRequest) -> HttpResponseBase:
        return await self.exchange(request)

    def body(self, answer: Answer, exchange: Exchange) -> dict[str, Any]:
        choice = (answer.completion["choices"] or [{}])[0]
        body = {
            "id": exchange.request_id,
            "tenantId": exchange.key.tenant.id,
            "content": text_of(choice.get("message", {}).get("content")),
            "model": answer.model,
            "requestedModel": exchange.asked.ask.model,
            "route": str(answer.route),
            "finishReason": text_of(choice.get("finish_reason")),
            "usage": {
                "inputTokens": answer.usage.input_tokens,
                "cachedInputTokens": answer.usage.cached_input_tokens,
                "outputTokens": answer.usage.output_tokens,
                "reasoningTokens": answer.usage.reasoning_tokens,
            },
            "budget": answer.budget.body(exchange.key.tenant),
        }
        return body if exchange.hides_money else {**body, "costUsd": usd_string(answer.cost_ticks)}

    def closing(self, answer: Answer, exchange: Exchange) -> bytes:
        return encode(self.body(answer, exchange)) + DONE


class CompletionsEndpoint(ChatView):
    """`POST /v1/chat/completions`: the OpenAI shape, for any OpenAI client."""

    def read(self, data: Any) -> CallRequest:
        return read_completion(data)

    async def post(self, request: HttpRequest) -> HttpResponseBase:
        return await self.exchange(request)

    def body(self, answer: Answer, exchange: Exchange) -> dict[str, Any]:
        return as_provided(answer, exchange)


def as_provided(answer: Answer, exchange: Exchange) -> dict[str, Any]:
    """The provider's body, naming the catalogue's model; its own figures of cost may have to go."""
    body = {**answer.completion, "model": answer.model}
    if exchange.hides_money and "usage" in body:
        body["usage"] = tokens_only(body["usage"])
    return body


def runtime_of(request: HttpRequest) -> Runtime:
    runtime: Runtime = request.scope["state"]["runtime"]  # type: ignore[attr-defined]
    return runtime


async def authenticate(request: HttpRequest, runtime: Runtime) -> KeyPolicy:
    """The caller's key, from the policy and not by a query. Raises InvalidApiKey, Forbidden or LedgerUnavailable."""
    secret = secret_of(request.headers)
    key = valid(None if secret is None else await find_key(secret, runtime))
    line_of(request).tenant = key.tenant.id
    refuse_disabled(is_active=key.tenant.is_active)
    return key


async def find_key(secret: str, runtime: Runtime) -> KeyPolicy | None:
    """The key, which may have been issued after the policy was read: then the database is asked first."""
    digest = digest_of(secret)
    if digest not in runtime.policy.keys and secret.startswith(KEY_PREFIX):
        try:
            await runtime.keeper.look_again()
        except (Error, TimeoutError) as error:
            raise LedgerUnavailable(retry_after_s=1) from error
        except Exception as error:  # a row that cannot be read: whether the key is one, nobody knows
            logger.exception("the policy could not be read")
            raise LedgerUnavailable(retry_after_s=1) from error
    return runtime.policy.keys.get(digest)


def call_of(exchange: Exchange, kind: type[AnyCall]) -> AnyCall:
    """The call, whose model is checked already."""
    asked, key, tenant = exchange.asked, exchange.key, exchange.key.tenant
    caller = Caller(
        call_id=new_id(),
        request_id=exchange.request_id,
        tenant_id=tenant.id,
        key_id=key.id,
        customer=asked.customer,
        conversation=asked.conversation,
        requested_model=tenant.route[0] if asked.ask.model == AUTO else asked.ask.model,
        tags=",".join(asked.tags),
    )
    return kind(
        caller,
        tenant,
        asked.ask,
        asked.body,
        pace=key.pace,
        context=context_of(exchange.request.headers),
        line=line_of(exchange.request),
        accept_language=exchange.request.headers.get("Accept-Language", ""),
    )


def check_model(name: str, key: KeyPolicy, policy: Policy) -> None:
    if name == AUTO:
        return
    model = enabled_model(name, policy)
    if model.makes_embeddings:
        raise InvalidRequest(f"model: {name!r} makes embeddings: call it at /v1/embeddings.", param="model")
    if name not in key.tenant.models:
        raise Forbidden(f"The model {name!r} is not on this tenant's route.")
    check_price(model)


def enabled_model(name: str, policy: Policy) -> ModelPolicy:
    model = policy.models.get(name)
    if model is None or not model.is_enabled:
        raise InvalidRequest(f"model: {name!r} is not a model of this guard.", param="model")
    return model


def check_price(model: ModelPolicy) -> None:
    if model.price_at(timezone.now()) is None:
        raise InvalidRequest(f"model: {model.id!r} has no price, so it cannot be called.", param="model")


async def claim_key(request: HttpRequest, call: ChatCall, runtime: Runtime) -> Claim | Answer | None:
    """The claim of the request's `Idempotency-Key`, or the answer to replay, or None where it has no key."""
    if (key := request.headers.get("Idempotency-Key")) is None:
        return None
    if not 0 < len(key) <= MOST_KEY_LENGTH or not key.isprintable():
        raise InvalidRequest(
            f"Idempotency-Key: must have 1 to {MOST_KEY_LENGTH} printable characters.", param="Idempotency-Key"
        )
    digest = sha256(request.path.encode() + b"\n" + request.body).hexdigest()
    try:
        found = await runtime.query(idempotency.claim, call.tenant.id, key, digest, call.caller.call_id, timezone.now())
    except Error as error:
        raise LedgerUnavailable(retry_after_s=1) from error
    return Answer(**idempotency.unpack(found)) if isinstance(found, str) else found


def headers_of(answer: Answer, exchange: Exchange) -> dict[str, str]:
    headers = served_headers(answer.model, str(answer.route), answer.budget, exchange)
    headers |= headers_of_changes(answer.adapted, answer.lowered_max_tokens)
    if not exchange.hides_money:
        headers["X-Guard-Cost-Usd"] = usd_string(answer.cost_ticks)
    return headers


def headers_of_changes(adapted: tuple[str, ...], lowered_max_tokens: int | None) -> dict[str, str]:
    """What the guard changed of the request, where it did."""
    headers = {"X-Guard-Adapted": ",".join(adapted)} if adapted else {}
    return headers if lowered_max_tokens is None else {**headers, "X-Guard-Max-Tokens": str(lowered_max_tokens)}


def served_headers(model: str, route: str, status: BudgetStatus, exchange: Exchange) -> dict[str, str]:
    return {
        "X-Request-Id": exchange.request_id,
        **({} if route == HANDOFF_ROUTE else {"X-Guard-Model": model}),
        "X-Guard-Requested-Model": exchange.asked.ask.model,
        "X-Guard-Route": route,
        **status.headers(exchange.key.tenant, timezone.now()),
    }
