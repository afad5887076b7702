"""`POST /v1/embeddings`: parse, have it served as any call, by the model it names and no other."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from django.http import HttpRequest, HttpResponseBase

from guard.call import ChatCall, EmbeddingCall
from guard.chat.endpoints import ChatView, Exchange, as_provided, call_of, check_price, enabled_model, headers_of
from guard.chat.flow import converse
from guard.chat.request.reader import CallRequest
from guard.chat.types import Answer
from guard.embeddings.request import read_embeddings
from guard.http.async_view import json_answer
from guard.http.errors import refuse
from guard.policy.snapshot import Policy
from guard.worker.runtime import Runtime

if TYPE_CHECKING:
    from guard.providers.client import Provider


async def embed(
    provider: "Provider", payload: dict[str, Any], headers: Mapping[str, str], wait_s: float | None
) -> dict[str, Any]:
    return await provider.embed(payload, headers, wait_s)


class EmbeddingsEndpoint(ChatView):
    def read(self, data: Any) -> CallRequest:
        return read_embeddings(data)

    async def post(self, request: HttpRequest) -> HttpResponseBase:
        return await self.exchange(request)

    def call(self, exchange: Exchange, policy: Policy) -> ChatCall:
        """Any embedding model that is enabled and priced; the tenant's route is of chat models."""
        name = exchange.asked.ask.model
        model = enabled_model(name, policy)
        if not model.makes_embeddings:
            raise refuse("model", f"{name!r} makes no embeddings.")
        check_price(model)
        check_lengths(exchange.asked.body["input"], model.context_tokens)
        call = call_of(exchange, EmbeddingCall)
        return replace(call, tenant=replace(call.tenant, route=(name,), downgrades=()))

    async def answered(self, call: ChatCall, exchange: Exchange, runtime: Runtime) -> HttpResponseBase:
        answer = await runtime.paid(converse(call, runtime, embed))
        return json_answer(self.body(answer, exchange), headers_of(answer, exchange))

    def body(self, answer: Answer, exchange: Exchange) -> dict[str, Any]:
        return as_provided(answer, exchange)


def check_lengths(inputs: list[str | list[int]], most: int) -> None:
    """Of inputs that come as tokens; how many a text has, its provider counts."""
    for position, each in enumerate(inputs):
        if isinstance(each, list) and len(each) > most:
            raise refuse(f"input[{position}]", f"has {len(each):,} tokens, and this model takes {most:,}.")
