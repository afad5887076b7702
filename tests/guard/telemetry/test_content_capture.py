"""Prompts and answers: stored only where a tenant asks, encrypted, for its days; against the real server."""

import json
import os
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, connections, transaction
from django.utils import timezone

from guard.chat import idempotency
from guard.config.deploy_checks import check_content_keys
from guard.http.errors import IdempotencyConflict
from guard.telemetry.content_capture import Contents, Response, Said, store
from spend.jobs import forget_content
from spend.models import Call, CallContent, IdempotentCall, LedgerEntry, Reservation
from spend.privacy.customers import Customer, erase
from spend.privacy.encryption import UnreadableError, decrypt, encrypt
from spend.privacy.stored_content import forget, kept, said_in
from tenants.models import Scope, Tenant
from tenants.trail.history import history_of
from tests.factories import ApiKeyFactory, BudgetFactory, TenantFactory
from tests.support.agents import HELLO, Agent, Json, audit, chunks_of, events_of, eventually, text_of, upstream
from tests.support.calls import chat_call
from tests.support.history import place_call
from tests.support.provider import Provider
from tests.support.race import on_postgres
from tests.support.server import GuardServer

StartServer = Callable[..., GuardServer]
ANSWER = "It arrives tomorrow, I promise."


def new_key() -> str:
    return urlsafe_b64encode(os.urandom(32)).decode()


KEY = urlsafe_b64encode(b"a key of the tests, in 32 bytes!").decode()


@pytest.fixture(autouse=True)
def _keys(settings: Any) -> None:
    settings.CONTENT_KEYS = (KEY,)


@pytest.fixture(scope="module")
def server(module_server: Callable[..., GuardServer]) -> Iterator[GuardServer]:
    """One for the module. At the end its books must balance, and its log has nothing of what was said."""
    server = module_server(start=False, CONTENT_KEYS=KEY)
    yield server
    audit(server)
    assert "Traceback" not in server.log, server.log
    assert ANSWER not in server.log
    assert HELLO[0]["content"] not in server.log


@pytest.fixture(scope="module")
def agents(server: GuardServer) -> Iterator[Agent]:
    with server.database(), transaction.atomic():
        made = [Agent.create(server, content_days=30) for _ in range(15)]
    server.start()
    return iter(made)


@pytest.fixture
def agent(agents: Iterator[Agent], provider: Provider) -> Agent:
    made = next(agents)
    provider.behave(upstream(made.model), content=ANSWER)
    return made


def contents_of(agent: Agent) -> list[CallContent]:
    with agent.server.database():
        return list(CallContent.objects.filter(tenant=agent.tenant_id).order_by("at"))


def content_of(agent: Agent) -> CallContent:
    """The only one, once it is stored."""
    eventually(lambda: len(contents_of(agent)) > 0)
    (content,) = contents_of(agent)
    return content


def answered(content: CallContent) -> dict[str, Any]:
    ((choice),) = said_in(content)["answer"]
    message: dict[str, Any] = choice["message"]
    return message


# What is stored


def test_what_was_said_is_stored_and_none_of_it_in_the_clear(agent: Agent) -> None:
    assert agent.chat(user="ann", metadata={"conversation_id": "c-1"}).status_code == 200
    content = content_of(agent)
    (call,) = agent.calls()
    assert (content.call_id, content.customer, content.conversation, content.at) == (call.id, "ann", "c-1", call.at)
    assert said_in(content)["messages"] == HELLO
    assert answered(content)["content"] == ANSWER
    assert ANSWER not in content.body
    assert "parcel" not in content.body


def test_a_stream_is_stored_as_it_was_passed_on(agent: Agent, provider: Provider) -> None:
    provider.behave(upstream(agent.model), content=ANSWER, chunks=4)
    assert text_of(chunks_of(agent.stream())) == ANSWER
    content = content_of(agent)
    assert said_in(content)["messages"] == HELLO
    assert answered(content)["content"] == ANSWER


def test_a_stream_whose_client_went_away_is_stored_as_far_as_it_came(agent: Agent, provider: Provider) -> None:
    provider.behave(upstream(agent.model), content=ANSWER, chunks=30, chunk_delay_s=0.1)
    answer = agent.stream()
    for _event, _ in zip(events_of(answer), range(5), strict=False):
        pass
    answer.close()
    text = answered(content_of(agent))["content"]
    assert text
    assert ANSWER.startswith(text)
    assert text != ANSWER
    assert agent.entry().is_estimated


def test_tool_calls_of_a_stream_are_stored(agent: Agent, provider: Provider) -> None:
    function: Json = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{"}}
    parts: list[Json] = [function, {"function": {"arguments": "}"}}]
    chunks = [{"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, **part}]}}]} for part in parts]
    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}], "usage": {"prompt_tokens": 9}}
    provider.behave(upstream(agent.model), chunks=[*chunks, end])
    chunks_of(agent.stream())
    (call,) = answered(content_of(agent))["tool_calls"]
    assert call == {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def test_a_tenant_starts_and_stops_it_while_the_guard_runs(agent: Agent) -> None:
    def ask_for(days: int) -> None:
        with agent.server.database():  # returns once every worker knows
            tenant = Tenant.objects.get(pk=agent.tenant_id)
            tenant.content_days = days
            tenant.save()

    agent.chat()
    first = content_of(agent)
    ask_for(0)
    agent.chat()
    ask_for(1)
    agent.chat()
    eventually(lambda: len(contents_of(agent)) > 1)
    stored = [content.call_id for content in contents_of(agent)]
    calls = sorted(agent.calls(), key=lambda call: call.at)
    assert stored == [first.call_id, calls[2].id]


def test_what_was_not_served_is_not_stored(agent: Agent, provider: Provider) -> None:
    provider.behave(upstream(agent.model), status=400)
    assert agent.chat().status_code == 400
    provider.reset()
    agent.chat()
    content_of(agent)
    assert len(agent.calls()) == 2


def test_an_answer_kept_for_replay_is_encrypted_too(agent: Agent, provider: Provider) -> None:
    for stream in (False, True):
        key = {"Idempotency-Key": f"key-{stream}"}
        first = agent.chat(key, stream=stream).content
        again = agent.chat(key, stream=stream)
        assert again.headers["Idempotent-Replayed"] == "true"
        assert stream or again.content == first
        assert not stream or ANSWER in text_of(chunks_of(again))
    with agent.server.database():
        packed = list(IdempotentCall.objects.filter(tenant_id=agent.tenant_id).values_list("answer", flat=True))
    assert len(packed) == 2
    assert all(ANSWER in decrypt(answer).decode() or "arrives" in decrypt(answer).decode() for answer in packed)
    assert not any("arrives" in answer for answer in packed)


@pytest.mark.parametrize(("days", "keys"), [(0, KEY), (30, "")])
def test_without_days_or_without_a_key_nothing_is_stored(
    guard_server: StartServer, provider: Provider, days: int, keys: str
) -> None:
    server = guard_server(start=False, CONTENT_KEYS=keys)
    with server.database():
        agent = Agent.create(server, content_days=days)
    server.start()
    assert agent.chat().status_code == 200
    chunks_of(agent.stream())
    server.terminate()  # which would have stored what was queued
    assert contents_of(agent) == []


def test_a_failure_hurts_no_call_and_says_nothing_of_it(guard_server: StartServer, provider: Provider) -> None:
    provider.behave(content=ANSWER)
    server = guard_server(start=False, CONTENT_KEYS=KEY)
    with server.database():
        agent = Agent.create(server, content_days=30)
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE spend_callcontent RENAME TO elsewhere")
    server.start()
    assert agent.chat().json()["choices"][0]["message"]["content"] == ANSWER
    eventually(lambda: "what was said in 1 calls was not stored" in server.log)
    assert agent.chat().status_code == 200
    assert agent.entries(at_least=2)
    assert ANSWER not in server.log


def test_what_is_queued_at_the_stop_is_stored_and_what_finds_the_queue_full_is_dropped(
    guard_server: StartServer, provider: Provider, caplog: pytest.LogCaptureFixture
) -> None:
    contents, call = Contents(), chat_call(content_days=1)
    contents.queue.maxsize = 1
    for _ in range(3):
        contents.keep(call, {})
    assert (contents.queue.qsize(), contents.queue.dropped) == (1, 2)
    assert caplog.messages == [f"what was said in {count} calls was dropped: its queue is full" for count in (1, 2)]
    large = Contents()
    for _ in range(20):
        large.keep(call, {"choices": [{"message": {"content": "x" * 4 * 1024 * 1024}}]})
    assert (large.queue.qsize(), large.queue.dropped) == (15, 5)
    server = guard_server(start=False, CONTENT_KEYS=KEY)
    with server.database():
        agent = Agent.create(server, content_days=30)
    server.start()
    for _ in range(5):
        agent.chat()
    server.terminate()
    assert len(contents_of(agent)) == 5


# A customer's


@pytest.fixture
def talks(agent: Agent) -> Agent:
    """Two conversations of ann's, one of them with bob and one with a call that names nobody; and one of bob's."""
    with agent.server.database():
        BudgetFactory.create(tenant=Tenant.objects.get(pk=agent.tenant_id), scope=Scope.CONVERSATION, period="total")
    named = [("ann", "of-ann"), ("", "of-ann"), ("ann", "of-both"), ("bob", "of-both"), ("bob", "of-bob")]
    for customer, conversation in named:
        assert agent.chat(user=customer, metadata={"conversation_id": conversation}).status_code == 200
    eventually(lambda: len(contents_of(agent)) == len(named))
    return agent


def names_in(agent: Agent, model: Any) -> set[tuple[str, str]]:
    with agent.server.database():
        return set(model.objects.filter(tenant=agent.tenant_id).values_list("customer", "conversation"))


def test_a_customer_can_have_what_it_said(talks: Agent) -> None:
    exported = talks.server.command("export_customer", talks.tenant_id, "ann")
    assert exported.count('"table":"contents"') == exported.count(ANSWER) == 3  # with the call that names nobody


def test_an_erasure_takes_what_was_said_and_the_conversations_ids(talks: Agent) -> None:
    talks.server.command("roll_up")
    erased = talks.server.command("erase_customer", talks.tenant_id, "ann", "--yes")
    assert "1 conversations, 1 shared conversations, which keep their ids" in erased
    assert {(content.customer, content.conversation) for content in contents_of(talks)} == {
        ("bob", "of-both"),
        ("bob", "of-bob"),
    }
    for model in (Call, LedgerEntry, Reservation):
        names = names_in(talks, model)
        (its_own,) = {conversation for customer, conversation in names if customer == ""}
        assert its_own.startswith("erased-")
        (pseudonym,) = {customer for customer, _ in names} - {"", "bob"}
        bobs = {("bob", "of-both"), ("bob", "of-bob")}
        assert names == {(pseudonym, its_own), ("", its_own), (pseudonym, "of-both"), *bobs}
    rows = json.loads(talks.server.command("dumpdata", "spend"))
    everything = str([row for row in rows if f"'{talks.tenant_id}'" in str(row)])
    assert "of-both" in everything
    assert "of-ann" not in everything
    audit(talks.server)


def test_an_erasure_waits_for_calls_in_its_conversations(talks: Agent) -> None:
    with talks.server.database():
        pending = Reservation.objects.filter(tenant=talks.tenant_id, customer="", conversation="of-ann")
        assert pending.update(state="pending") == 1
    with pytest.raises(CommandError, match="in flight"):
        talks.server.command("erase_customer", talks.tenant_id, "ann", "--yes")
    with talks.server.database():
        Reservation.objects.filter(tenant=talks.tenant_id).update(state="settled")
    assert len(contents_of(talks)) == 5
    assert ("ann", "of-ann") in names_in(talks, Call)


@pytest.fixture
def tenant() -> Tenant:
    return TenantFactory.create(id="acme", content_days=30)


@pytest.fixture
def call(tenant: Tenant) -> Call:
    key = ApiKeyFactory.create(tenant=tenant)
    return place_call(tenant, key, timezone.now() - timedelta(days=2), customer="ann", conversation="c", cost_ticks=7)


def said_of(call: Call, *goes_on_from: UUID) -> Said:
    return Said(call.id, call.customer, call.conversation, HELLO, {"choices": []}, goes_on_from=goes_on_from)


def response_of(call: Call, *goes_on_from: UUID) -> Response:
    return Response(call.id, call.customer, call.conversation, b"{}", goes_on_from=goes_on_from)


@pytest.mark.django_db(transaction=True)
def test_what_is_stored_after_its_customer_was_erased_is_left_out(tenant: Tenant, call: Call) -> None:
    late = said_of(call)
    erase(Customer(tenant.id, "ann"))
    store([late])
    assert not CallContent.objects.exists()


@on_postgres
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("is_guarded", [False, True])
def test_what_is_stored_during_an_erasure_is_left_out(tenant: Tenant, call: Call, is_guarded: bool) -> None:
    """The guard taken out: whoever reads the name without a lock finds it as it was, and what was said stays."""

    def store_without_a_lock() -> None:
        rows = Call.objects.filter(pk=call.id, customer="ann")
        CallContent.objects.bulk_create(
            CallContent(call_id=row.id, tenant_id=row.tenant_id, customer=row.customer, at=row.at, body="x")
            for row in rows
        )

    run_beside(lambda: store([said_of(call)]) if is_guarded else store_without_a_lock(), tenant)
    assert CallContent.objects.filter(customer="ann").exists() is not is_guarded


@pytest.fixture
def later(call: Call) -> Call:
    """A call that names nobody, and goes on from ann's."""
    store([said_of(call), response_of(call)])
    key = ApiKeyFactory.create(tenant=call.tenant)
    return place_call(call.tenant, key, timezone.now(), cost_ticks=7)


@pytest.mark.django_db(transaction=True)
def test_what_goes_on_from_words_that_are_erased_is_left_out(tenant: Tenant, call: Call, later: Call) -> None:
    both = [said_of(later, call.id), response_of(later, call.id)]
    assert store(both) == {later.id}
    erase(Customer(tenant.id, "ann"))
    CallContent.objects.all().delete()
    assert store(both) == set()


@on_postgres
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("is_guarded", [False, True])
def test_what_goes_on_from_words_that_are_being_erased_is_left_out(
    tenant: Tenant, call: Call, later: Call, is_guarded: bool
) -> None:
    """The guard taken out: whoever looks without a lock finds them as they were, and they stay in what goes on."""
    before = [call.id] if is_guarded else []

    def store_later() -> None:
        assert is_guarded or CallContent.objects.filter(pk=call.id).exclude(response="").exists()
        store([said_of(later, *before)])

    run_beside(store_later, tenant)
    assert CallContent.objects.filter(pk=later.id).exists() is not is_guarded


def run_beside(work: Callable[[], object], tenant: Tenant) -> None:
    """An erasure that is done but not committed, and `work` on a connection of its own meanwhile."""
    from concurrent.futures import ThreadPoolExecutor

    def run() -> None:
        try:
            work()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(1) as pool, transaction.atomic():
        erase(Customer(tenant.id, "ann"))
        pool.submit(run).result(timeout=20)


# Forgetting, and keys


def stored(call: Call) -> CallContent:
    store([said_of(call)])
    return CallContent.objects.get(pk=call.id)


@pytest.mark.django_db
@pytest.mark.parametrize(("days", "is_kept"), [(3, True), (2, False), (0, False)])
def test_what_is_older_than_the_tenants_present_days_is_forgotten(
    tenant: Tenant, call: Call, days: int, is_kept: bool
) -> None:
    stored(call)
    tenant.content_days = days
    tenant.save()
    assert kept(tenant, timezone.now()).exists() is is_kept
    assert forget(timezone.now()) == (not is_kept)
    assert CallContent.objects.exists() is is_kept


@pytest.mark.django_db
def test_forgetting_goes_in_steps_and_leaves_other_tenants_alone(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    other = TenantFactory.create(id="other", content_days=3)
    key, now = ApiKeyFactory.create(tenant=call.tenant), timezone.now()
    for number in range(5):
        stored(place_call(call.tenant, key, now - timedelta(days=40 + number)))
    stored(place_call(other, key, now - timedelta(days=2)))
    monkeypatch.setattr("spend.privacy.stored_content.MOST_AT_ONCE", 2)
    assert forget_content.call() == "what was said in 5 calls is forgotten"
    assert CallContent.objects.get().tenant == other


@pytest.mark.django_db
def test_everything_is_encrypted_with_a_new_key(call: Call, settings: Any, capsys: pytest.CaptureFixture[str]) -> None:
    content, new = stored(call), new_key()
    answers = [encrypt(b'{"x": 1}'), '{"in the clear": 1}', ""]
    for number, answer in enumerate(answers):
        IdempotentCall.objects.create(
            tenant_id="acme", key=str(number), call_id=call.id, claimed_at=call.at, answer=answer
        )
    settings.CONTENT_KEYS = (new, KEY)
    assert said_in(content)["messages"] == HELLO
    call_command("rotate_content")
    assert "2 encrypted with the first key" in capsys.readouterr().out
    settings.CONTENT_KEYS = (new,)
    assert said_in(CallContent.objects.get())["messages"] == HELLO
    assert decrypt(IdempotentCall.objects.get(key="0").answer) == b'{"x": 1}'
    assert [IdempotentCall.objects.get(key=key).answer for key in "12"] == answers[1:]


@pytest.mark.django_db
def test_what_no_key_opens_is_said_and_left(call: Call, settings: Any) -> None:
    content = stored(call)
    settings.CONTENT_KEYS = (new_key(),)
    with pytest.raises(UnreadableError):
        said_in(content)
    with pytest.raises(CommandError, match="1 of 1 cannot be read"):
        call_command("rotate_content")
    assert CallContent.objects.get().body == content.body
    settings.CONTENT_KEYS = ()
    with pytest.raises(CommandError, match="CONTENT_KEYS has no key"):
        call_command("rotate_content")
    with pytest.raises(UnreadableError):
        said_in(content)


def test_an_answer_that_no_key_opens_is_a_conflict_and_no_defect(settings: Any) -> None:
    packed = encrypt(b"{}")
    settings.CONTENT_KEYS = (new_key(),)
    with pytest.raises(IdempotencyConflict, match="cannot be read"):
        idempotency.unpack(packed)


@pytest.mark.django_db
def test_who_asks_for_it_is_in_the_audit_trail(tenant: Tenant) -> None:
    tenant.content_days = 7
    tenant.save()
    (edit,) = history_of(tenant)[0].edits
    assert (edit.field, edit.old, edit.new) == ("Prompts and answers kept, days", "30", "7")


@pytest.mark.django_db
def test_the_check_names_who_asks_in_vain(tenant: Tenant, settings: Any) -> None:
    assert check_content_keys() == []
    settings.CONTENT_KEYS = ()
    (warning,) = check_content_keys()
    assert warning.id == "guard.W009"
    assert "of acme are to be kept" in warning.msg
    Tenant.objects.update(content_days=0)
    assert check_content_keys() == []
