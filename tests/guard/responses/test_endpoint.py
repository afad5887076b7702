"""`POST /v1/responses` of a running guard, asked by the openai package."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import OpenAI
from openai.types.responses import ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

from spend.models import Route
from tests.factories import BudgetFactory
from tests.support.agents import Agent, audit, eventually, upstream
from tests.support.provider import Provider
from tests.support.server import GuardServer

ANY_EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
QUESTION = "Where is my parcel?"


@pytest.fixture
def server(shared_server: GuardServer) -> GuardServer:
    return shared_server


@pytest.fixture
def agent(server: GuardServer, provider: Provider) -> Agent:
    return Agent.hire(server)


@pytest.fixture
def client(agent: Agent) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{agent.server.url}/v1", api_key=agent.secret, max_retries=0) as client:
        yield client


def post(agent: Agent, headers: dict[str, str] | None = None, **body: Any) -> Any:
    body = {"model": agent.model, "input": QUESTION, **body}
    return agent.client.post("/v1/responses", json=body, headers=headers)


def numbered(events: list[Any]) -> list[Any]:
    assert [event.sequence_number for event in events] == list(range(len(events)))
    for event in events:
        ANY_EVENT.validate_python(event.model_dump())
    return events


def test_a_plain_call(agent: Agent, client: OpenAI, provider: Provider) -> None:
    raw = client.responses.with_raw_response.create(
        model=agent.model, input=QUESTION, instructions="Be kind.", user="ann", metadata={"conversation_id": "c-1"},
        max_output_tokens=100, store=True,
    )  # fmt: skip
    answer, entry = raw.parse(), agent.entry()
    assert answer.model == raw.headers["x-guard-model"] == agent.model
    assert "thanks" in answer.output_text.lower()
    assert (answer.to_dict()["store"], answer.status, answer.instructions) == (False, "completed", "Be kind.")
    assert answer.usage
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (entry.input_tokens, entry.output_tokens)
    assert answer.id == f"resp_{entry.call_id.hex}"
    assert float(raw.headers["x-guard-cost-usd"]) > 0
    assert (entry.customer, entry.conversation) == ("ann", "c-1")
    (call,) = provider.calls()
    assert call["body"]["messages"][0] == {"role": "system", "content": "Be kind."}
    assert call["body"]["max_completion_tokens"] == 100


def test_a_stream(agent: Agent, client: OpenAI) -> None:
    events = numbered(list(client.responses.create(model=agent.model, input=QUESTION, stream=True)))
    last, entry = events[-1].response, agent.entry()
    assert events[-1].type == "response.completed"
    assert last.output_text == "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert last.usage.total_tokens == entry.input_tokens + entry.output_tokens
    assert not entry.is_estimated


class Order(BaseModel):
    number: int


def test_the_packages_helpers(agent: Agent, client: OpenAI) -> None:
    with client.responses.stream(model=agent.model, input=QUESTION) as stream:
        assert stream.get_final_response().output_text
    assert isinstance(client.responses.parse(model=agent.model, input=QUESTION, text_format=Order).output_parsed, Order)


def test_a_stream_that_breaks_off_fails_at_its_end_and_is_billed(
    agent: Agent, client: OpenAI, provider: Provider
) -> None:
    provider.behave(upstream(agent.model), break_after_chunks=4, content="one two three four five six seven")
    events = numbered(list(client.responses.create(model=agent.model, input=QUESTION, stream=True)))
    failed, entry = events[-1].response, agent.entry()
    assert events[-1].type == "response.failed"
    assert (failed.status, failed.error.code) == ("failed", "server_error")
    assert failed.output[0].status == "incomplete"
    assert entry.is_estimated
    assert failed.usage.output_tokens == entry.output_tokens > 0


def test_an_answer_cut_at_its_maximum(agent: Agent, client: OpenAI, provider: Provider) -> None:
    provider.behave(upstream(agent.model), content="one two three four", finish_reason="length")
    answer = client.responses.create(model=agent.model, input=QUESTION)
    assert answer.incomplete_details
    assert (answer.status, answer.incomplete_details.reason) == ("incomplete", "max_output_tokens")


def test_keeping_a_stream_alive(agent: Agent, provider: Provider) -> None:
    body = ': wait\n\ndata: {"choices": [{"index": 0, "delta": {"content": "hi"}, "finish_reason": "stop"}]}\n\n'
    provider.behave(
        upstream(agent.model), status=200, headers={"content-type": "text/event-stream"},
        body=f"{body}data: [DONE]\n\n",
    )  # fmt: skip
    answer = post(agent, stream=True)
    assert ": wait\n\n" in answer.text
    assert "[DONE]" not in answer.text
    assert '"type":"response.completed"' in answer.text
    agent.entry()


@pytest.mark.parametrize("stream", [False, True])
def test_the_same_key_is_one_call(agent: Agent, *, stream: bool) -> None:
    headers = {"Idempotency-Key": "k-1"}
    first = post(agent, headers, stream=stream)
    again = post(agent, headers, stream=stream)
    assert again.headers["Idempotent-Replayed"] == "true"
    ends = [answer.text.split("\n\n")[-2:] if stream else answer.json() for answer in (first, again)]
    assert ends[0] == ends[1]
    agent.entry()


def test_errors_before_the_first_byte(agent: Agent, client: OpenAI, provider: Provider) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        client.responses.create(model=agent.model, input=QUESTION, tools=[{"type": "web_search"}])
    assert raised.value.param == "tools[0].type"
    provider.behave(status=500)
    with pytest.raises(openai.InternalServerError) as failed:
        client.responses.create(model=agent.model, input=QUESTION, stream=True)
    assert failed.value.code == "all_models_failed"
    image = [{"role": "user", "content": [{"type": "input_image", "image_url": "https://example.com/a.png"}]}]
    answer = post(agent, input=image)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "input")
    assert agent.client.get("/v1/responses").status_code == 405
    assert agent.server.client.post("/v1/responses", json={}).status_code == 401


def test_no_response_is_kept(agent: Agent, client: OpenAI) -> None:
    for asking in (
        client.responses.retrieve,
        client.responses.delete,
        client.responses.cancel,
        client.responses.input_items.list,
    ):
        with pytest.raises(openai.NotFoundError, match="keeps no conversations"):
            asking("resp_1")
    assert agent.server.client.get("/v1/responses/resp_1").status_code == 401
    with pytest.raises(openai.BadRequestError) as raised:
        client.responses.create(model=agent.model, input=QUESTION, previous_response_id="resp_1")
    assert raised.value.param == "previous_response_id"


def test_another_model_and_what_it_does_not_take(agent: Agent, provider: Provider) -> None:
    provider.behave(upstream(agent.model), status=500)
    provider.behave(
        upstream(agent.fallback), fail_first_n=1, status=400,
        body={"error": {"message": "Unsupported parameter: 'verbosity'", "type": "invalid_request_error",
                        "param": "verbosity", "code": "unsupported_parameter"}},
    )  # fmt: skip
    answer = post(agent, model="auto", text={"verbosity": "low"})
    assert (answer.headers["X-Guard-Route"], answer.json()["model"]) == (Route.FALLBACK, agent.fallback)
    assert answer.headers["X-Guard-Adapted"] == "text.verbosity"


def test_the_hard_cap_and_the_books(server: GuardServer, agent: Agent, client: OpenAI, provider: Provider) -> None:
    with server.database():
        BudgetFactory.create(tenant_id=agent.tenant_id, limit_ticks=1)
    with pytest.raises(openai.RateLimitError) as raised:
        client.responses.create(model=agent.model, input=QUESTION)
    assert raised.value.code == "budget_exceeded"
    eventually(lambda: [call.code for call in agent.calls()] == ["budget_exceeded"])
    assert provider.calls() == []
    audit(server)
    assert "Traceback" not in server.log
