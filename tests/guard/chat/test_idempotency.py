"""`Idempotency-Key` against the real server: the same key and body is one call, whoever answers it."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
import requests
from django.db import connection, transaction
from django.utils import timezone
from pytest_django import DjangoDbBlocker

from guard.call import Claim
from guard.chat import idempotency
from guard.chat.types import Answer
from guard.http.errors import IdempotencyConflict, IdempotencyMismatch
from guard.policy.budget_status import BudgetStatus
from spend.ids import new_id
from spend.models import IdempotentCall, LedgerEntry, Reservation, Route
from spend.pricing.cost import Usage
from spend.retention.replays import forget_old
from tenants.models import Tenant
from tests.factories import ApiKeyFactory, BudgetFactory
from tests.support.agents import Agent, audit, chunks_of, events_of, eventually, text_of, upstream
from tests.support.databases import Databases
from tests.support.provider import Provider
from tests.support.server import GuardServer

StartServer = Callable[..., GuardServer]
USAGE = {"prompt_tokens": 30, "completion_tokens": 20, "total_tokens": 50}
USAGE_TICKS = 30 * 12_500 + 20 * 25_000
KEY = {"Idempotency-Key": "order-17"}


@pytest.fixture(scope="module")
def server(
    databases: Databases,
    provider_process: Provider,
    tmp_path_factory: pytest.TempPathFactory,
    django_db_blocker: DjangoDbBlocker,
    pytestconfig: pytest.Config,
) -> Iterator[GuardServer]:
    """One for the module, on Postgres of two workers. At the end its books must balance."""
    log_path = tmp_path_factory.mktemp("idempotency") / "server.log"
    workers = 2 if pytestconfig.getoption("db") == "postgres" else 1
    server = GuardServer(databases.copy(), log_path, django_db_blocker, workers)
    try:
        yield server
        audit(server)
        assert "Traceback" not in server.log, server.log
    finally:
        server.close()


@pytest.fixture(scope="module")
def agents(server: GuardServer) -> Iterator[Agent]:
    with server.database(), transaction.atomic():
        made = [Agent.create(server) for _ in range(43)]
    server.start()
    return iter(made)


@pytest.fixture
def agent(agents: Iterator[Agent], provider: Provider) -> Agent:
    return next(agents)


def is_replay(answer: requests.Response) -> bool:
    return answer.headers.get("Idempotent-Replayed") == "true"


def assert_refused(answer: requests.Response, status: int, code: str) -> None:
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert not is_replay(answer)


GUARDED = ["model", "requested-model", "route", "cost-usd", "budget-state"]


def guarded(answer: requests.Response) -> dict[str, str]:
    return {name: answer.headers[f"X-Guard-{name}"] for name in GUARDED}


# The same answer


def test_the_same_key_and_body_is_answered_from_the_first_calls_result(agent: Agent, provider: Provider) -> None:
    provider.behave(upstream(agent.model), usage={**USAGE, "cost_in_usd_ticks": 777_000})
    first = agent.chat(KEY)
    provider.behave(upstream(agent.model), content="Something else.")
    again = [agent.chat({**KEY, "X-Request-Id": f"again-{number}"}) for number in range(3)]
    assert not is_replay(first)
    assert all(map(is_replay, again))
    assert [answer.json() for answer in again] == [first.json()] * 3
    assert [guarded(answer) for answer in again] == [guarded(first)] * 3
    assert {answer.headers["X-Request-Id"] for answer in again} == {first.headers["X-Request-Id"]}
    assert (agent.entry().cost_ticks, agent.entry().request_id) == (777_000, first.headers["X-Request-Id"])
    assert len(provider.calls()) == len(agent.calls()) == 1


def test_the_guards_own_endpoint_replays_too(agent: Agent, provider: Provider) -> None:
    provider.behave(upstream(agent.model), usage=USAGE, content="It arrives tomorrow.")
    first, again = agent.own_chat(KEY), agent.own_chat(KEY)
    assert is_replay(again)
    said = {name: value for name, value in again.json().items() if name != "budget"}
    assert said == {name: first.json()[name] for name in said}
    assert said["content"] == "It arrives tomorrow."
    assert again.json()["budget"]["state"] == first.json()["budget"]["state"]
    assert agent.entry().cost_ticks == USAGE_TICKS


@pytest.mark.parametrize("show_usage", [False, True])
def test_a_finished_stream_replays(agent: Agent, provider: Provider, show_usage: bool) -> None:
    provider.behave(upstream(agent.model), usage=USAGE, chunks=3)
    body: dict[str, Any] = {"stream_options": {"include_usage": show_usage}}
    chunks = chunks_of(agent.stream(KEY, **body))
    again = agent.stream(KEY, **body)
    assert is_replay(again)
    assert again.headers["Content-Type"] == "text/event-stream"
    assert chunks_of(again) == chunks
    assert any("usage" in chunk for chunk in chunks) is show_usage
    assert agent.entry().cost_ticks == USAGE_TICKS


def test_a_finished_stream_of_the_guards_own_endpoint_replays_with_its_summary(
    agent: Agent, provider: Provider
) -> None:
    provider.behave(upstream(agent.model), usage=USAGE, chunks=3)
    first, again = (chunks_of(agent.own_chat(KEY, stream=True)) for _ in range(2))
    assert again[:-1] == first[:-1]
    same = ("id", "content", "model", "costUsd", "usage")
    assert [again[-1][name] for name in same] == [first[-1][name] for name in same]
    assert agent.entry().cost_ticks == USAGE_TICKS


def test_a_stream_replays_without_money_once_it_is_hidden(agent: Agent, provider: Provider) -> None:
    provider.behave(upstream(agent.model), usage={**USAGE, "cost_in_usd_ticks": 777_000})
    body: dict[str, Any] = {"stream_options": {"include_usage": True}}
    first = chunks_of(agent.stream(KEY, **body))
    assert first[-1]["usage"]["cost_in_usd_ticks"] == 777_000
    with agent.server.database():
        tenant = Tenant.objects.get(pk=agent.tenant_id)
        tenant.hide_money = True
        tenant.save()
    again = chunks_of(agent.stream(KEY, **body))
    assert again == [*first[:-1], {**first[-1], "usage": USAGE}]


def test_a_stream_whose_client_left_after_the_finish_reason_replays(agent: Agent, provider: Provider) -> None:
    """All of the answer came, and was paid: it must not be paid again."""
    provider.behave(upstream(agent.model), usage=USAGE, chunks=2, chunk_delay_s=0.1)
    answer = agent.stream(KEY)
    seen = [event for event, _ in zip(events_of(answer), range(4), strict=False)]
    answer.close()
    agent.entry()
    again = chunks_of(agent.stream(KEY))
    assert text_of(again) == text_of(seen)  # type: ignore[arg-type]
    assert agent.entry().cost_ticks == USAGE_TICKS


def test_an_answer_too_odd_to_be_kept_is_served_and_its_key_is_free_again(agent: Agent, provider: Provider) -> None:
    deep = "[" * 600 + "]" * 600
    message = '{"role": "assistant", "content": "Hello"}'
    choice = f'{{"index": 0, "message": {message}, "finish_reason": "stop"}}'
    body = f'{{"choices": [{choice}], "deep": {deep}, "usage": {json.dumps(USAGE)}}}'
    provider.behave(upstream(agent.model), status=200, body=body)
    answers = [agent.chat(KEY), agent.own_chat()]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].json()["deep"] == json.loads(deep)
    assert answers[1].json()["content"] == "Hello"
    provider.reset()
    again = agent.chat(KEY)
    assert (again.status_code, is_replay(again)) == (200, False)
    assert [entry.cost_ticks for entry in agent.entries(at_least=3)][:2] == [USAGE_TICKS] * 2


# Another call


def test_the_same_key_with_another_body_is_refused(agent: Agent) -> None:
    agent.chat(KEY)
    assert_refused(agent.chat(KEY, temperature=0.5), 422, "idempotency_mismatch")
    assert_refused(agent.chat(KEY, stream=True), 422, "idempotency_mismatch")
    assert_refused(agent.own_chat(KEY), 422, "idempotency_mismatch")
    assert len(agent.entries()) == 1


def test_keys_are_a_tenants_own(agent: Agent, agents: Iterator[Agent]) -> None:
    other = next(agents)
    first, others = agent.chat(KEY, model="auto"), other.chat(KEY, model="auto")
    assert not is_replay(others)
    assert (first.headers["X-Guard-Model"], others.headers["X-Guard-Model"]) == (agent.model, other.model)
    assert len(agent.entries()) == len(other.entries()) == 1


def test_another_key_of_the_same_tenant_replays(agent: Agent) -> None:
    with agent.server.database(wait=False):
        second_key = ApiKeyFactory.create(tenant=Tenant.objects.get(pk=agent.tenant_id))
    agent.chat(KEY)
    assert is_replay(replace(agent, secret=second_key.secret).chat(KEY))


def test_other_keys_are_other_calls(agent: Agent) -> None:
    answers = [
        agent.chat({"Idempotency-Key": key})
        for key in ("a", "A", "a a", "k" * 255, "ключ".encode().decode("latin-1")[:1])
    ]
    assert [answer.status_code for answer in answers] == [200] * 5
    assert not any(map(is_replay, answers))
    assert len(agent.entries(at_least=5)) == 5


@pytest.mark.parametrize("key", ["", "k" * 256, "a\tb", "a\x85b"])
def test_bad_keys_are_refused(agent: Agent, provider: Provider, key: str) -> None:
    answer = agent.chat({"Idempotency-Key": key.encode("latin-1")})  # type: ignore[dict-item]
    assert_refused(answer, 400, "invalid_request")
    assert answer.json()["error"]["param"] == "Idempotency-Key"
    assert provider.calls() == []


# In flight, refused, failed, broken off


@pytest.mark.parametrize("stream", [False, True])
def test_while_the_first_call_is_in_flight_the_second_conflicts(agent: Agent, provider: Provider, stream: bool) -> None:
    provider.behave(upstream(agent.model), latency_s=0.5, usage=USAGE)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(agent.chat, KEY, stream=stream)
        eventually(lambda: len(provider.calls()) == 1)
        second = agent.chat(KEY, stream=stream)
        assert_refused(second, 409, "idempotency_conflict")
        assert second.headers["x-should-retry"] == "false"
        assert_refused(agent.chat(KEY, stream=stream, seed=1), 422, "idempotency_mismatch")
        assert first.result().status_code == 200
        assert first.result().content
    assert is_replay(agent.chat(KEY, stream=stream))
    assert agent.entry().cost_ticks == USAGE_TICKS


def test_of_many_at_once_one_is_served(agent: Agent, provider: Provider) -> None:
    """Across workers too; later the others get its answer."""
    provider.behave(upstream(agent.model), latency_s=0.2, usage=USAGE)
    agent.client.get("/api/health")
    for number in range(5):
        key = {"Idempotency-Key": f"at-once-{number}"}
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: agent.chat(key), range(8)))  # noqa: B023
        assert Counter((answer.status_code, is_replay(answer)) for answer in answers)[(200, False)] == 1
        assert {answer.status_code for answer in answers} <= {200, 409}
        assert is_replay(agent.chat(key))
    assert len(agent.entries(at_least=5)) == 5


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("status", "code"), [(500, 503), (400, 400)])
def test_a_call_that_failed_may_be_tried_again(
    agent: Agent, provider: Provider, stream: bool, status: int, code: int
) -> None:
    provider.behave("*", status=status)
    assert agent.chat(KEY, stream=stream).status_code == code
    provider.reset()
    again = agent.chat(KEY, stream=stream)
    assert (again.status_code, is_replay(again), bool(again.content)) == (200, False, True)
    assert is_replay(agent.chat(KEY, stream=stream))


def test_a_call_that_was_refused_may_be_tried_again(agent: Agent, provider: Provider) -> None:
    with agent.server.database():
        budget = BudgetFactory.create(tenant=Tenant.objects.get(pk=agent.tenant_id), limit_ticks=1)
    assert_refused(agent.chat(KEY), 429, "budget_exceeded")
    with agent.server.database():
        budget.delete()
    assert agent.chat(KEY).status_code == 200
    assert len(agent.entries()) == 1


@pytest.mark.parametrize("ending", [{"break_after_chunks": 3}, {"garbage_after_chunks": 3}])
def test_a_stream_that_broke_off_may_be_tried_again(agent: Agent, provider: Provider, ending: dict[str, Any]) -> None:
    provider.behave(upstream(agent.model), chunks=6, chunk_delay_s=0.02, **ending)
    assert "error" in list(events_of(agent.stream(KEY)))[-1]
    provider.behave(upstream(agent.model), usage=USAGE)
    again = agent.stream(KEY)
    assert not is_replay(again)
    assert chunks_of(again)
    assert is_replay(agent.stream(KEY))
    broken, whole = agent.entries(at_least=2)
    assert (broken.is_estimated, whole.is_estimated) == (True, False)


def test_a_stream_whose_client_left_half_way_may_be_tried_again(agent: Agent, provider: Provider) -> None:
    provider.behave(upstream(agent.model), chunks=6, stall_after_chunks=3)
    answer = agent.stream(KEY)
    next(events_of(answer))
    answer.close()
    eventually(lambda: not agent.pending())
    provider.behave(upstream(agent.model), chunks=6, usage=USAGE)
    retried: list[requests.Response] = []

    def is_served() -> bool:  # its key is released a moment after it is settled
        retried.append(agent.chat(KEY, stream=True))
        return retried[-1].status_code == 200

    eventually(is_served)
    assert {answer.status_code for answer in retried[:-1]} <= {409}
    assert not is_replay(retried[-1])
    assert chunks_of(retried[-1])
    assert len(agent.entries(at_least=2)) == 2


# Crashes, age, and a database that is away


def test_after_a_crash_the_key_conflicts_until_the_lease_ends_and_is_then_served_anew(
    guard_server: StartServer, provider: Provider
) -> None:
    lease = timedelta(hours=1)  # longer than a server starts, on any machine
    server = guard_server(start=False, RESERVATION_LEASE_SECONDS=f"{lease.total_seconds():.0f}")
    with server.database():
        agent = Agent.create(server)
    server.start()
    provider.behave(upstream(agent.model), hang=True)
    with ThreadPoolExecutor(1) as pool:
        lost = pool.submit(agent.chat, KEY)
        eventually(lambda: len(provider.calls()) == 1)
        server.kill()
        with pytest.raises(requests.ConnectionError):
            lost.result()
    provider.behave(upstream(agent.model), usage=USAGE)
    server.start()
    assert_refused(agent.chat(KEY), 409, "idempotency_conflict")
    with server.database():  # the lease, over sooner
        past = timezone.now() - timedelta(seconds=1)
        IdempotentCall.objects.update(claimed_at=past - lease)
        server_pending = agent.pending()
        Reservation.objects.update(lease_expires_at=past)
    assert server_pending == 1
    eventually(lambda: agent.chat(KEY).status_code == 200)  # once the hold has expired
    assert is_replay(agent.chat(KEY))
    crashed, served = agent.entries(at_least=2)
    assert (crashed.cost_ticks, crashed.is_expired) == (crashed.hold_ticks, True)
    assert served.cost_ticks == USAGE_TICKS
    audit(server)


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_that_falls_back_for_longer_than_a_lease_keeps_its_key(
    agent: Agent, provider: Provider, stream: bool
) -> None:
    """Its claim is as old as the call; each attempt's hold has a lease of its own."""
    provider.behave(upstream(agent.model), status=500)
    provider.behave(upstream(agent.fallback), latency_s=1.5, usage=USAGE)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(agent.chat, KEY, stream=stream)
        eventually(lambda: len(provider.calls()) == 2)
        with agent.server.database():
            long_ago = timezone.now() - timedelta(seconds=901)
            IdempotentCall.objects.filter(tenant_id=agent.tenant_id).update(claimed_at=long_ago)
        assert_refused(agent.chat(KEY, stream=stream), 409, "idempotency_conflict")
        assert first.result().content
    assert is_replay(agent.chat(KEY, stream=stream))
    assert agent.entry().cost_ticks == USAGE_TICKS


def test_after_a_day_a_key_is_forgotten(agent: Agent, provider: Provider) -> None:
    agent.chat(KEY)
    with agent.server.database():
        mine = IdempotentCall.objects.filter(tenant_id=agent.tenant_id)
        mine.update(claimed_at=timezone.now() - timedelta(hours=23, minutes=59))
    assert is_replay(agent.chat(KEY))
    with agent.server.database():
        mine.update(claimed_at=timezone.now() - timedelta(hours=24))
    assert not is_replay(agent.chat(KEY, temperature=1))
    assert len(agent.entries(at_least=2)) == 2


def test_old_keys_are_swept_away(agent: Agent) -> None:
    agent.chat(KEY)
    with agent.server.database():
        mine = IdempotentCall.objects.filter(tenant_id=agent.tenant_id)
        mine.update(claimed_at=timezone.now() - timedelta(hours=25))

    def is_gone() -> bool:
        with agent.server.database():
            return not mine.exists()

    eventually(is_gone)


# The rules by themselves


def claim(call: Any = None, digest: str = "d", now: Any = None) -> Claim | str:
    return idempotency.claim("acme", "k", digest, call or new_id(), now or timezone.now())


@pytest.mark.django_db
def test_a_late_workers_answer_is_not_kept_for_who_claimed_the_key_after_it() -> None:
    """Its lease was over and its key another's, perhaps with another body."""
    long_ago = timezone.now() - timedelta(seconds=901)
    late, anew = claim(now=long_ago), claim(digest="other")
    assert isinstance(late, Claim)
    assert isinstance(anew, Claim)
    assert not IdempotentCall.objects.filter(pk=late.id).exists()
    idempotency.release(late)
    with pytest.raises(IdempotencyConflict):
        claim(digest="other")
    with pytest.raises(IdempotencyMismatch):
        claim()


@pytest.mark.django_db
def test_an_answer_outlives_its_lease_but_not_the_day() -> None:
    first = claim(now=timezone.now() - timedelta(hours=23))
    assert isinstance(first, Claim)
    IdempotentCall.objects.update(answer="{}")
    idempotency.release(first)
    assert claim() == "{}"
    forget_old(timezone.now() + timedelta(hours=1, seconds=1))
    assert isinstance(claim(), Claim)


@pytest.mark.django_db(transaction=True)
def test_claims_and_releases_at_once_never_fail_and_never_give_a_key_twice() -> None:
    """A row may be released between any two steps of another's claim."""
    held: list[int] = []
    failures: list[BaseException] = []

    def work(_: int) -> int:
        served = 0
        try:
            deadline = time.monotonic() + 1.5
            while time.monotonic() < deadline:
                try:
                    mine = claim()
                except IdempotencyConflict:
                    continue
                assert isinstance(mine, Claim)
                held.append(1)
                assert len(held) == 1
                served += 1
                held.pop()
                idempotency.release(mine)
        except BaseException as failure:
            failures.append(failure)
            raise
        finally:
            connection.close()
        return served

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(work, range(4))) > 10
    assert failures == []


def test_where_keys_cannot_be_claimed_no_model_is_called(agent: Agent, provider: Provider) -> None:
    def rename(name: str, to: str) -> None:
        with agent.server.database(), connection.cursor() as cursor:
            cursor.execute(f"ALTER TABLE {name} RENAME TO {to}")

    rename("spend_idempotentcall", "elsewhere")
    try:
        answer = agent.chat(KEY)
    finally:
        rename("elsewhere", "spend_idempotentcall")
    assert_refused(answer, 503, "ledger_unavailable")
    assert answer.headers["Retry-After"] == "1"
    assert provider.calls() == []
    with agent.server.database():
        assert not LedgerEntry.objects.filter(tenant_id=agent.tenant_id).exists()


# Answers across versions

ANSWER = Answer(
    request_id="req_1",
    completion={"choices": []},
    usage=Usage(input_tokens=7, output_tokens=3),
    model="m",
    route=Route.PRIMARY,
    cost_ticks=5,
    budget=BudgetStatus("active", 100, 5, 95, datetime(2026, 3, 4, tzinfo=UTC)),
    adapted=("stop",),
)


@pytest.mark.parametrize(("step", "steps"), [(0, 0), (2, 3)])
def test_an_answer_is_read_as_it_was_kept(step: int, steps: int) -> None:
    answer = replace(ANSWER, budget=replace(ANSWER.budget, step=step, steps=steps))
    packed = idempotency.pack(answer)
    assert packed
    assert Answer(**idempotency.unpack(packed)) == replace(answer, is_replay=True)


def test_an_answer_kept_before_there_were_versions_is_still_given_again() -> None:
    old = orjson.dumps(ANSWER).decode()
    assert Answer(**idempotency.unpack(old)) == replace(ANSWER, is_replay=True)


def test_an_answer_of_a_version_not_known_here_is_a_conflict_and_no_defect() -> None:
    """A deploy is under way: the worker that can read it is another one."""
    with pytest.raises(IdempotencyConflict, match="another version"):
        idempotency.unpack('{"version": 2, "reply": {}}')
