"""`POST /v1/embeddings` of a running guard, asked by the openai package."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import openai
import pytest
from django.db import transaction
from openai import OpenAI

from guard.demo.embeddings import vector_of
from spend.models import Call, Route
from tenants.models import ApiKey, HardStop, RouteStep, Tenant
from tenants.trail import raise_revision
from tests.factories import BudgetFactory, CatalogueModelFactory
from tests.support.agents import Agent, audit, eventually, upstream
from tests.support.provider import Provider
from tests.support.server import GuardServer

TEXT = "Where is my parcel?"
PRICE_TICKS = 200


@dataclass
class Embedder(Agent):
    """An agent with an embedding model of its own, as no two tests share a breaker."""

    embedding: str = ""

    @classmethod
    def create(cls, server: GuardServer, **tenant: Any) -> "Embedder":
        agent = Agent.create(server, **tenant)
        embedding = f"{agent.tenant_id}-embedding"
        CatalogueModelFactory.create(
            id=embedding, upstream_name=upstream(embedding), context_tokens=100,
            price__tier__input_ticks=PRICE_TICKS, price__tier__cached_input_ticks=PRICE_TICKS,
            price__tier__output_ticks=0,
        )  # fmt: skip
        return cls(**vars(agent), embedding=embedding)


@pytest.fixture
def server(shared_server: GuardServer) -> GuardServer:
    return shared_server


@pytest.fixture
def agent(server: GuardServer, provider: Provider) -> Embedder:
    with server.database(), transaction.atomic():
        return Embedder.create(server)


@pytest.fixture
def client(agent: Embedder) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{agent.server.url}/v1", api_key=agent.secret, max_retries=0) as client:
        yield client


def post(agent: Embedder, headers: dict[str, str] | None = None, **body: Any) -> Any:
    return agent.client.post("/v1/embeddings", json={"model": agent.embedding, "input": TEXT, **body}, headers=headers)


@pytest.mark.parametrize(
    ("given", "count"), [(TEXT, 1), ([TEXT, "And mine?"], 2), ([1, 2, 3], 1), ([[1, 2, 3], [4]], 2)]
)
def test_vectors_of_every_kind_of_input(
    agent: Embedder, client: OpenAI, provider: Provider, given: Any, count: int
) -> None:
    raw = client.embeddings.with_raw_response.create(
        model=agent.embedding, input=given, dimensions=8, user="ann", extra_headers={"X-Guard-Conversation": "c-1"}
    )
    answer, entry = raw.parse(), agent.entry()
    vectors = [vector_of(each, 8) for each in (given if count == 2 else [given])]
    assert [each.embedding for each in answer.data] == [pytest.approx(vector) for vector in vectors]
    assert answer.model == raw.headers["x-guard-model"] == agent.embedding
    assert raw.headers["x-guard-route"] == Route.PRIMARY
    assert "x-guard-max-tokens" not in raw.headers
    assert (entry.input_tokens, entry.output_tokens) == (answer.usage.prompt_tokens, 0)
    assert entry.cost_ticks == answer.usage.prompt_tokens * PRICE_TICKS > 0
    assert not entry.is_estimated
    assert (entry.customer, entry.conversation, entry.route) == ("ann", "c-1", Route.PRIMARY)
    (call,) = provider.calls()
    inputs = given if count == 2 else [given]
    body = {"model": upstream(agent.embedding), "input": inputs, "dimensions": 8, "user": "ann"}
    assert call["body"] == {**body, "encoding_format": "base64"}  # as the package asks by itself


def test_floats_where_they_are_asked_for(agent: Embedder) -> None:
    answer = post(agent, encoding_format="float").json()
    assert answer["data"][0]["embedding"] == pytest.approx(vector_of(TEXT, 1536))
    assert answer["object"] == "list"
    agent.entry()


def test_the_same_key_is_one_call(agent: Embedder, provider: Provider) -> None:
    first, again = (post(agent, {"Idempotency-Key": "k"}, dimensions=4) for _ in range(2))
    assert (again.json(), again.headers["Idempotent-Replayed"]) == (first.json(), "true")
    agent.entry()


def test_what_is_too_large_to_be_kept_for_a_replay_is_another_call(agent: Embedder) -> None:
    inputs = [f"text {number}" for number in range(400)]
    first, again = (post(agent, {"Idempotency-Key": "k"}, input=inputs, dimensions=3072) for _ in range(2))
    assert first.json() == again.json()
    assert "Idempotent-Replayed" not in again.headers
    assert len(agent.entries(2)) == 2


def test_it_goes_to_no_other_model(agent: Embedder, client: OpenAI, provider: Provider) -> None:
    with agent.server.database():  # another that could, and a cheaper one
        CatalogueModelFactory.create(id=f"{agent.tenant_id}-other-embedding", price__tier__input_ticks=1)
    provider.behave(upstream(agent.embedding), status=500)
    with pytest.raises(openai.InternalServerError) as raised:
        client.embeddings.create(model=agent.embedding, input=TEXT)
    body = cast(dict[str, Any], raised.value.body)
    assert (body["code"], body["attempts"]) == (
        "all_models_failed", [{"model": agent.embedding, "code": "server_error"}]
    )  # fmt: skip
    assert len(provider.calls()) == 1
    provider.behave(upstream(agent.embedding), status=400)
    with pytest.raises(openai.BadRequestError):
        client.embeddings.create(model=agent.embedding, input=TEXT)
    eventually(lambda: {call.code for call in agent.calls()} == {"all_models_failed", "invalid_request"})


def test_without_usage_what_was_held_is_charged(agent: Embedder, provider: Provider) -> None:
    provider.behave(upstream(agent.embedding), usage=None)
    assert post(agent).status_code == 200
    entry = agent.entry()
    assert (entry.is_estimated, entry.cost_ticks) == (True, (len(TEXT) + 8 + 16) * PRICE_TICKS)


def test_an_impossible_usage_is_counted(agent: Embedder, provider: Provider) -> None:
    provider.behave(upstream(agent.embedding), usage={"prompt_tokens": 5_000_000, "total_tokens": 5_000_000})
    assert post(agent, input=[TEXT, [1, 2]]).status_code == 200
    entry = agent.entry()
    assert entry.is_estimated
    assert 4 < entry.input_tokens < len(TEXT)


def test_what_is_no_answer_fails_and_what_it_cost_is_charged(agent: Embedder, provider: Provider) -> None:
    provider.behave(upstream(agent.embedding), body={"data": "none"})
    answer = post(agent)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "all_models_failed")
    assert agent.entry().is_estimated


@pytest.mark.parametrize("billed", [0, 7])
def test_an_error_within_an_answer_that_counts_tokens_may_be_billed(
    agent: Embedder, provider: Provider, billed: int
) -> None:
    usage = {"prompt_tokens": billed, "total_tokens": billed}
    provider.behave(upstream(agent.embedding), body={"error": {"message": "no", "code": 500}, "usage": usage})
    assert post(agent).status_code == 503
    eventually(lambda: bool(agent.calls()))
    assert [entry.is_estimated for entry in agent.entries(at_least=min(billed, 1))] == [True] * min(billed, 1)


def test_an_embedding_is_never_handed_off(agent: Embedder) -> None:
    with agent.server.database(), transaction.atomic():
        Tenant.objects.filter(pk=agent.tenant_id).update(hard_stop=HardStop.HAND_OFF, handoff_words="Later.")
        BudgetFactory.create(tenant_id=agent.tenant_id, tenant=None, limit_ticks=0)
        raise_revision()
    eventually(lambda: post(agent).status_code == 429)
    assert post(agent).json()["error"]["code"] == "budget_exceeded"


@pytest.mark.parametrize("stream", [False, True])
def test_chat_and_embeddings_take_no_model_of_each_other(agent: Embedder, provider: Provider, *, stream: bool) -> None:
    refused = post(agent, model=agent.model).json()["error"]
    assert (refused["param"], "makes no embeddings" in refused["message"]) == ("model", True)
    refused = agent.chat(model=agent.embedding, stream=stream).json()["error"]
    assert (refused["param"], "/v1/embeddings" in refused["message"]) == ("model", True)
    assert post(agent, model="nobody's").status_code == 400
    assert provider.calls() == []


def test_an_embedding_model_on_a_route_is_passed_over(agent: Embedder, provider: Provider) -> None:
    with agent.server.database():
        RouteStep.objects.filter(tenant_id=agent.tenant_id).delete()
        for position, name in enumerate([agent.embedding, agent.model]):
            RouteStep.objects.create(tenant_id=agent.tenant_id, position=position, model_id=name)
    assert agent.chat(model="auto").headers["X-Guard-Model"] == agent.model
    agent.entry()


def test_a_list_of_tokens_that_is_too_long_for_the_model_is_named(agent: Embedder) -> None:
    answer = post(agent, input=[[1], [1] * 101]).json()["error"]
    assert (answer["param"], answer["code"]) == ("input[1]", "invalid_request")


def test_models_that_may_be_named_are_listed(agent: Embedder, client: OpenAI) -> None:
    assert agent.embedding in [model.id for model in client.models.list()]
    assert client.models.retrieve(agent.embedding).id == agent.embedding


def test_money_is_hidden(agent: Embedder, provider: Provider) -> None:
    with agent.server.database():
        tenant = Tenant.objects.get(pk=agent.tenant_id)
        tenant.hide_money = True
        tenant.save()
    usage = {"prompt_tokens": 3, "total_tokens": 3, "cost_in_usd_ticks": 7}
    provider.behave(upstream(agent.embedding), usage=usage)
    answer = post(agent)
    assert answer.json()["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    assert "X-Guard-Cost-Usd" not in answer.headers
    assert agent.entry().cost_ticks == 7


def test_a_rate_limit_counts_it(agent: Embedder) -> None:
    with agent.server.database():
        key = ApiKey.objects.get(tenant_id=agent.tenant_id)
        key.requests_per_minute = 1
        key.save()
    answers = [post(agent) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 429]
    assert answers[1].json()["error"]["code"] == "rate_limited"
    agent.entry()


def test_the_hard_cap_and_the_books(server: GuardServer, agent: Embedder, client: OpenAI, provider: Provider) -> None:
    with server.database():
        BudgetFactory.create(tenant_id=agent.tenant_id, limit_ticks=1)
    with pytest.raises(openai.RateLimitError) as raised:
        client.embeddings.create(model=agent.embedding, input=TEXT)
    assert raised.value.code == "budget_exceeded"
    with server.database():
        eventually(lambda: Call.objects.filter(tenant_id=agent.tenant_id, code="budget_exceeded").exists())
    assert provider.calls() == []
    audit(server)
    assert "Traceback" not in server.log
