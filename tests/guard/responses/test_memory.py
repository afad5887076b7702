"""`previous_response_id` and responses by their ids, of a running guard whose tenants keep what was said."""

import json
import os
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from decimal import Decimal
from typing import Any, cast

import openai
import pytest
from django.db import connection, transaction
from django.utils import timezone
from openai import OpenAI
from openai.types.responses import Response

from spend.models import CallContent, Route
from tenants.models import Tenant
from tests.factories import ApiKeyFactory, BudgetFactory, CatalogueModelFactory, DowngradeRuleFactory
from tests.support.agents import Agent, audit, eventually, upstream
from tests.support.provider import Provider
from tests.support.server import GuardServer

KEY = urlsafe_b64encode(b"a key of the tests, in 32 bytes!").decode()
QUESTION, ANSWER = "Where is my parcel, please?", "It arrives tomorrow, I promise."
TOOL: Any = {
    "type": "function",
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
Json = dict[str, Any]


@pytest.fixture(autouse=True)
def _keys(settings: Any) -> None:
    """What a command reads here, as the server does."""
    settings.CONTENT_KEYS = (KEY,)


@pytest.fixture(scope="module")
def server(module_server: Callable[..., GuardServer]) -> Iterator[GuardServer]:
    """One for the module. At the end its books must balance, and its log has nothing of what was said."""
    server = module_server(start=False, CONTENT_KEYS=KEY, MAX_BODY_BYTES="20000")
    yield server
    audit(server)
    assert "Traceback" not in server.log, server.log
    assert ANSWER not in server.log
    assert QUESTION not in server.log


@pytest.fixture(scope="module")
def agents(server: GuardServer) -> Iterator[Agent]:
    with server.database(), transaction.atomic():
        made = [Agent.create(server, content_days=30) for _ in range(26)]
    server.start()
    return iter(made)


@pytest.fixture
def agent(agents: Iterator[Agent], provider: Provider) -> Agent:
    return next(agents)


@pytest.fixture
def client(agent: Agent) -> Iterator[OpenAI]:
    with client_of(agent) as client:
        yield client


def client_of(agent: Agent) -> OpenAI:
    return OpenAI(base_url=f"{agent.server.url}/v1", api_key=agent.secret, max_retries=0)


def ask(client: OpenAI, model: str, given: Any = QUESTION, *, stream: bool = False, **options: Any) -> Response:
    """The response, plain or as a stream's last event has it."""
    asked = client.responses.create(model=model, input=given, stream=stream, **options)
    return cast(Any, list(cast(Any, asked))[-1]).response if stream else cast(Response, asked)


def sent(provider: Provider) -> list[Json]:
    """The messages of the latest call, as its provider had them."""
    messages: list[Json] = provider.calls()[-1]["body"]["messages"]
    return messages


def words(messages: list[Json]) -> list[tuple[str, str]]:
    """Who said what."""
    return [
        (each["role"], "".join(part["text"] for part in content) if isinstance(content, list) else content)
        for each in messages
        for content in [each["content"]]
    ]


def contents(agent: Agent) -> list[CallContent]:
    with agent.server.database():
        return list(CallContent.objects.filter(tenant=agent.tenant_id).order_by("at"))


def refused(kind: type[openai.APIStatusError], client: OpenAI, model: str, **options: Any) -> openai.APIStatusError:
    with pytest.raises(kind) as raised:
        ask(client, model, **options)
    return raised.value


# Going on


@pytest.mark.parametrize("stream", [False, True])
def test_a_conversation_goes_on_at_once_and_none_of_it_is_in_the_clear(
    agent: Agent, client: OpenAI, provider: Provider, *, stream: bool
) -> None:
    provider.behave(upstream(agent.model), content=ANSWER)
    first = ask(client, agent.model, stream=stream, instructions="Be kind.", user="ann",
                metadata={"conversation_id": "c-1"})  # fmt: skip
    assert first.to_dict()["store"] is True
    second = ask(client, agent.model, "When?", stream=stream, previous_response_id=first.id)
    assert second.previous_response_id == first.id
    third = ask(client, agent.model, "Why?", stream=stream, previous_response_id=second.id)
    assert third.output_text == ANSWER
    said = [("user", QUESTION), ("assistant", ANSWER), ("user", "When?"), ("assistant", ANSWER), ("user", "Why?")]
    assert words(sent(provider)) == said  # of the instructions nothing is inherited
    assert {(entry.customer, entry.conversation) for entry in agent.entries(3)} == {("ann", "c-1")}
    eventually(lambda: len([each for each in contents(agent) if each.body and each.response]) == 3)
    assert not [each for each in contents(agent) if "parcel" in each.body + each.response]
    # A branch from the first one knows nothing of the others.
    ask(client, agent.model, "How?", stream=stream, previous_response_id=first.id)
    assert words(sent(provider)) == [*said[:2], ("user", "How?")]


def test_any_worker_goes_on_and_so_does_one_that_was_started_anew(
    guard_server: Callable[..., GuardServer], provider: Provider
) -> None:
    server = guard_server(start=False, CONTENT_KEYS=KEY)
    with server.database():
        agent = Agent.create(server, content_days=30)
    server.start()
    with client_of(agent) as client:
        first = ask(client, agent.model)
        server.restart()
        assert ask(client, agent.model, "When?", previous_response_id=first.id).output_text
    assert len(sent(provider)) == 3


@pytest.mark.parametrize("stream", [False, True])
def test_a_conversation_with_tools_survives_a_downgrade_and_an_outage(
    server: GuardServer, agent: Agent, client: OpenAI, provider: Provider, *, stream: bool
) -> None:
    """Asked of one model, degraded to another when the tool has answered, and gone on with when that one is down."""
    first = ask(client, "auto", "Please get weather for Oslo.", stream=stream, tools=[TOOL])
    (call,) = first.output
    assert call.type == "function_call"
    assert first.model == agent.model
    with server.database():
        cheap = CatalogueModelFactory.create(
            id=f"{agent.tenant_id}-cheap", price__tier__input_ticks=10, price__tier__output_ticks=10
        )
        DowngradeRuleFactory.create(tenant_id=agent.tenant_id, to_model=cheap)
        BudgetFactory.create(tenant_id=agent.tenant_id, soft_cap=Decimal("0.0001"))
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny, 7 degrees"}
    second = ask(client, "auto", [result], stream=stream, tools=[TOOL], previous_response_id=first.id)
    assert second.model == cheap.id
    assert "sunny, 7 degrees" in second.output_text
    asked, called, answered = sent(provider)
    assert asked["content"] == "Please get weather for Oslo."
    assert called["tool_calls"] == [
        {"id": call.call_id, "type": "function", "function": {"name": "get_weather", "arguments": call.arguments}}
    ]
    assert (answered["role"], answered["tool_call_id"]) == ("tool", call.call_id)
    provider.behave(cheap.id, status=500)
    provider.behave(upstream(agent.model), status=500)
    third = ask(client, "auto", "Thanks.", stream=stream, tools=[TOOL], previous_response_id=second.id)
    assert third.model == agent.fallback
    assert [each["role"] for each in sent(provider)] == ["user", "assistant", "tool", "assistant", "user"]
    routes = [entry.route for entry in agent.entries(3) if entry.cost_ticks]
    assert routes == [Route.PRIMARY, Route.DOWNGRADE, Route.FALLBACK]


def test_an_answer_to_a_call_that_nobody_made_is_named(agent: Agent, client: OpenAI) -> None:
    first = ask(client, agent.model)
    result = [{"role": "user", "content": "x"}, {"type": "function_call_output", "call_id": "c", "output": "x"}]
    error = refused(openai.BadRequestError, client, agent.model, given=result, previous_response_id=first.id)
    assert error.param == "input[1].call_id"


def test_the_same_key_goes_on_from_the_same_response(agent: Agent, client: OpenAI) -> None:
    for stream in (False, True):
        key = {"extra_headers": {"Idempotency-Key": f"k-{stream}"}}
        first, again = (ask(client, agent.model, stream=stream, **key) for _ in range(2))
        assert again.to_dict() == first.to_dict()
        assert ask(client, agent.model, "When?", previous_response_id=again.id).output_text
    assert len(agent.entries(4)) == 4


def test_a_stream_whose_client_left_when_all_was_said_is_kept(agent: Agent, client: OpenAI, provider: Provider) -> None:
    """As its replay under the same key is to be gone on from."""
    whole = {"choices": [{"index": 0, "delta": {"content": ANSWER}, "finish_reason": "stop"}]}
    provider.behave(upstream(agent.model), chunks=[whole], stall_after_chunks=1)
    key: Any = {"extra_headers": {"Idempotency-Key": "k"}}
    with client.responses.create(model=agent.model, input=QUESTION, stream=True, **key) as events:
        next(event for event in events if event.type == "response.output_text.delta")
    eventually(lambda: any(each.response for each in contents(agent)))
    replayed = ask(client, agent.model, stream=True, **key)
    assert replayed.output_text == ANSWER
    provider.reset()
    ask(client, agent.model, "When?", previous_response_id=replayed.id)
    assert words(sent(provider))[1] == ("assistant", ANSWER)


def test_items_by_reference_are_those_of_the_answers(agent: Agent, client: OpenAI, provider: Provider) -> None:
    """As the AI SDK of Vercel sends its history: what the user said whole, what was answered by its ids."""
    asked: Json = {"role": "user", "content": "Please get weather for Oslo."}
    first = ask(client, agent.model, [asked], tools=[TOOL])
    call = cast(Any, first.output[0])
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny, 7 degrees"}
    history = [asked, {"type": "item_reference", "id": call.id}, result]
    second = ask(client, agent.model, history, stream=True, tools=[TOOL])
    assert [each["role"] for each in sent(provider)] == ["user", "assistant", "tool"]
    assert sent(provider)[1]["tool_calls"][0]["id"] == call.call_id
    history += [{"type": "item_reference", "id": second.output[0].id}, {"role": "user", "content": "Thanks."}]
    third = ask(client, agent.model, history)
    assert [each["role"] for each in sent(provider)] == ["user", "assistant", "tool", "assistant", "user"]
    assert {item.type for item in client.responses.input_items.list(third.id)} == {"message", "function_call_output"}
    # Whoever goes on from it has them, too, as long as they are kept.
    fourth = ask(client, agent.model, "When?", previous_response_id=third.id)
    assert len(sent(provider)) == 7
    client.responses.delete(first.id)
    refused(openai.NotFoundError, client, agent.model, previous_response_id=fourth.id)
    for item_id in (call.id, "msg_1", "rs_" + "0" * 32 + "_0"):
        given = [asked, {"type": "item_reference", "id": item_id}]
        assert refused(openai.NotFoundError, client, agent.model, given=given).param == "input[1].id"
    keep_for(agent, 0)
    error = refused(openai.BadRequestError, client, agent.model, given=history)
    assert (error.param, "contentDays" in str(error)) == ("input[1].type", True)


def test_references_to_too_much_are_refused(agent: Agent, client: OpenAI, provider: Provider) -> None:
    provider.behave(upstream(agent.model), content="x" * 9_000)
    long = [ask(client, agent.model, [{"role": "user", "content": "y" * 15_000}]).output[0].id for _ in range(3)]
    references = [{"type": "item_reference", "id": item_id} for item_id in long]
    error = refused(openai.BadRequestError, client, agent.model, given=[*references, {"role": "user", "content": "?"}])
    assert error.param == "input"


# Whose it is


def test_a_customer_is_inherited_and_another_refused(agent: Agent, client: OpenAI) -> None:
    anonymous = ask(client, agent.model)
    anns = ask(client, agent.model, "When?", previous_response_id=anonymous.id, user="ann")
    bobs: list[Json] = [{"user": "bob"}, {"extra_headers": {"X-Guard-Customer": "bob"}}]
    for named in bobs:
        error = refused(openai.BadRequestError, client, agent.model, previous_response_id=anns.id, **named)
        assert error.param == "previous_response_id"
    ask(client, agent.model, "Why?", previous_response_id=anns.id, metadata={"conversation_id": "c-2"})
    names = [(entry.customer, entry.conversation) for entry in agent.entries(3)]
    assert names == [("", ""), ("ann", ""), ("ann", "c-2")]


def test_anothers_unknown_and_odd_ids_are_404(agent: Agent, client: OpenAI, agents: Iterator[Agent]) -> None:
    mine = ask(client, agent.model)
    other = next(agents)
    with client_of(other) as others:
        for response_id in (mine.id, "resp_" + "0" * 32, "resp_1", "x" * 200):
            error = refused(openai.NotFoundError, others, other.model, previous_response_id=response_id)
            assert (error.param, error.code) == ("previous_response_id", "not_found")
            by_id = others.responses
            for asking in (by_id.retrieve, by_id.delete, by_id.cancel, by_id.input_items.list):
                with pytest.raises(openai.NotFoundError, match="is kept"):
                    asking(response_id)
    assert client.responses.retrieve(mine.id).id == mine.id
    agent.entry()


def test_where_none_is_kept_it_says_what_to_turn_on(agent: Agent, client: OpenAI) -> None:
    first = ask(client, agent.model)
    keep_for(agent, 0)
    assert ask(client, agent.model).to_dict()["store"] is False
    error = refused(openai.BadRequestError, client, agent.model, previous_response_id=first.id)
    assert error.param == "previous_response_id"
    for name in ("contentDays", "CONTENT_KEYS"):
        assert name in str(error)
    with pytest.raises(openai.NotFoundError, match="contentDays"):
        client.responses.retrieve(first.id)


def keep_for(agent: Agent, days: int) -> None:
    with agent.server.database():
        tenant = Tenant.objects.get(pk=agent.tenant_id)
        tenant.content_days = days
        tenant.save()


def test_a_request_may_ask_for_nothing_to_be_kept(agent: Agent, client: OpenAI) -> None:
    for stream in (False, True):
        response = ask(client, agent.model, stream=stream, store=False)
        assert response.to_dict()["store"] is False
        refused(openai.NotFoundError, client, agent.model, previous_response_id=response.id)
    eventually(lambda: len(contents(agent)) == 2)  # the tenant's own record has it
    assert not [each for each in contents(agent) if each.response]


# How it ends


@pytest.fixture
def talk(agent: Agent, client: OpenAI) -> list[Response]:
    """Three turns of ann's."""
    first = ask(client, agent.model, user="ann", metadata={"conversation_id": "c-1"})
    second = ask(client, agent.model, "When?", previous_response_id=first.id)
    return [first, second, ask(client, agent.model, "Why?", previous_response_id=second.id)]


def test_what_is_too_old_is_gone_and_with_it_what_went_on_from_it(
    agent: Agent, client: OpenAI, talk: list[Response]
) -> None:
    with agent.server.database():
        oldest = CallContent.objects.filter(tenant=agent.tenant_id).order_by("at")[:1].values("pk")
        old = timezone.now() - timedelta(days=31)
        assert CallContent.objects.filter(pk__in=list(oldest.values_list("pk", flat=True))).update(at=old) == 1
    for response in talk:
        error = refused(openai.NotFoundError, client, agent.model, previous_response_id=response.id)
        assert error.param == "previous_response_id"
    assert "what came before" in str(error)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(talk[0].id)
    assert client.responses.retrieve(talk[1].id).id == talk[1].id


def test_an_erased_customers_are_gone(agent: Agent, client: OpenAI, talk: list[Response]) -> None:
    agent.entries(3)
    exported = [
        json.loads(line) for line in agent.server.command("export_customer", agent.tenant_id, "ann").splitlines()
    ]
    responses = [row["response"] for row in exported if row["table"] == "responses"]
    assert [each["response"]["id"] for each in responses] == [response.id for response in talk]
    assert responses[0]["input"] == [{"type": "message", "role": "user", "content": QUESTION}]
    agent.server.command("erase_customer", agent.tenant_id, "ann", "--yes")
    assert contents(agent) == []
    for response in talk:
        refused(openai.NotFoundError, client, agent.model, previous_response_id=response.id)


def test_a_reference_goes_on_with_the_customer_who_was_answered(agent: Agent, client: OpenAI) -> None:
    """Else the words would be kept as somebody else's, and stay when the customer is erased."""
    first = ask(client, agent.model, user="ann", metadata={"conversation_id": "c-1"})
    given = [{"type": "item_reference", "id": first.output[0].id}, {"role": "user", "content": "When?"}]
    ask(client, agent.model, given)
    assert {(entry.customer, entry.conversation) for entry in agent.entries(2)} == {("ann", "c-1")}
    error = refused(openai.BadRequestError, client, agent.model, given=given, user="bob")
    assert error.param == "input[0].id"
    eventually(lambda: len([each for each in contents(agent) if each.body and each.response]) == 2)
    agent.server.command("erase_customer", agent.tenant_id, "ann", "--yes")
    assert contents(agent) == []


def test_a_key_that_is_replaced_reads_on_and_one_that_is_gone_does_not(
    guard_server: Callable[..., GuardServer], provider: Provider
) -> None:
    server = guard_server(start=False, CONTENT_KEYS=KEY)
    with server.database():
        agent = Agent.create(server, content_days=30)
    server.start()
    new, other = (urlsafe_b64encode(os.urandom(32)).decode() for _ in range(2))
    with client_of(agent) as client:
        first = ask(client, agent.model)
        second = ask(client, agent.model, "When?", previous_response_id=first.id)
        assert server.manage("rotate_content", CONTENT_KEYS=f"{new},{KEY}").returncode == 0
        server.environment["CONTENT_KEYS"] = new
        server.restart()
        third = ask(client, agent.model, "Why?", previous_response_id=second.id)
        assert len(sent(provider)) == 5
        server.environment["CONTENT_KEYS"] = other
        server.restart()
        refused(openai.NotFoundError, client, agent.model, previous_response_id=third.id)
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(third.id)
    assert "Traceback" not in server.log


def test_a_response_by_its_id(agent: Agent, client: OpenAI) -> None:
    given: Any = [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": [{"type": "output_text", "text": "Look."}]},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "1"},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "See"}]},
    ]  # fmt: skip
    response = ask(client, agent.model, given, metadata={"a": "b"})
    assert client.responses.retrieve(response.id).to_dict() == response.to_dict()
    listed = list(client.responses.input_items.list(response.id, limit=2, order="asc"))
    assert [item.type for item in listed] == [
        "message", "message", "message", "function_call", "function_call_output", "message",
    ]  # fmt: skip
    assert cast(Any, listed[0]).content[0].text == QUESTION
    newest = client.responses.input_items.list(response.id)
    assert ([item.id for item in newest.data], newest.has_more) == ([item.id for item in reversed(listed)], False)
    for query in ("limit=0", "limit=x", "order=up"):
        answer = agent.client.get(f"/v1/responses/{response.id}/input_items?{query}")
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, query.split("=")[0])
    with pytest.raises(openai.BadRequestError, match="in the background"):
        client.responses.cancel(response.id)


def test_a_deleted_response_is_gone_and_the_tenants_record_is_not(
    agent: Agent, client: OpenAI, talk: list[Response]
) -> None:
    first, second, third = talk
    client.responses.delete(second.id)
    for asking in (client.responses.retrieve, client.responses.delete):
        with pytest.raises(openai.NotFoundError):
            asking(second.id)
    for response in (second, third):
        refused(openai.NotFoundError, client, agent.model, previous_response_id=response.id)
    assert ask(client, agent.model, "How?", previous_response_id=first.id).output_text
    eventually(lambda: len([each for each in contents(agent) if each.body]) == 4)


@pytest.mark.parametrize("way", ["previous_response_id", "item_reference"])
def test_what_goes_on_from_a_response_that_goes_meanwhile_is_not_kept(
    agent: Agent, client: OpenAI, provider: Provider, way: str
) -> None:
    first = ask(client, agent.model)
    reference = [{"type": "item_reference", "id": first.output[0].id}, {"role": "user", "content": "When?"}]
    going_on: Json = {"given": reference} if way == "item_reference" else {way: first.id}
    provider.behave(upstream(agent.model), latency_s=4)
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(ask, client, agent.model, **going_on)
        eventually(lambda: len(provider.calls()) == 2)
        client.responses.delete(first.id)
        assert second.result().to_dict()["store"] is False
    assert len(agent.entries(2)) == 2


def test_a_conversation_has_the_bounds_of_a_request(agent: Agent, client: OpenAI, provider: Provider) -> None:
    many = [{"role": "user", "content": "x"}] * 300
    first = ask(client, agent.model, many)  # of which the API's own form is twice as long
    error = refused(openai.BadRequestError, client, agent.model, given=many * 2, previous_response_id=first.id)
    assert error.param == "previous_response_id"
    assert "at most 20,000 are taken" in str(error)
    assert len(provider.calls()) == 1


# What goes wrong


def test_what_could_not_be_kept_says_so(guard_server: Callable[..., GuardServer], provider: Provider) -> None:
    provider.behave(content=ANSWER)
    server = guard_server(start=False, CONTENT_KEYS=KEY)
    with server.database():
        agent = Agent.create(server, content_days=30)
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE spend_callcontent RENAME TO elsewhere")
    server.start()
    with client_of(agent) as client:
        for stream in (False, True):
            response = ask(client, agent.model, stream=stream)
            assert (response.output_text, response.to_dict()["store"]) == (ANSWER, False)
        with pytest.raises(openai.InternalServerError) as raised:
            ask(client, agent.model, previous_response_id=response.id)
    assert cast(Any, raised.value).code == "ledger_unavailable"
    assert len(agent.entries(2)) == 2


def test_a_stream_that_breaks_off_is_not_kept(agent: Agent, client: OpenAI, provider: Provider) -> None:
    provider.behave(upstream(agent.model), break_after_chunks=4, content="one two three four five six seven")
    failed = ask(client, agent.model, stream=True)
    assert failed.status == "failed"
    refused(openai.NotFoundError, client, agent.model, previous_response_id=failed.id)
    agent.entry()


def test_a_key_of_the_same_tenant_goes_on(server: GuardServer, agent: Agent, client: OpenAI) -> None:
    first = ask(client, agent.model)
    with server.database(wait=False):
        second_key = ApiKeyFactory.create(tenant=Tenant.objects.get(pk=agent.tenant_id)).secret
    with OpenAI(base_url=f"{server.url}/v1", api_key=second_key, max_retries=0) as other:
        assert ask(other, agent.model, "When?", previous_response_id=first.id).output_text
