"""Tags: the same at every door, bounded, in the ledger, in sums and on the pages, and gone with an erased customer."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import transaction
from django.test import Client
from django.utils import timezone

from dashboard.date_spans import spans_at
from dashboard.queries.subjects import every_tag
from spend.models import Call, LedgerEntry, Reservation, TagRollup
from spend.privacy.customers import Customer, erase
from spend.summaries.reports import GroupBy, Selection, report
from tenants.models import Tenant
from tests.factories import UserFactory
from tests.guard.embeddings.test_endpoint import Embedder as Agent
from tests.support.agents import audit
from tests.support.provider import Provider
from tests.support.server import GuardServer

GIVEN, KEPT = "support ,spring sale,, Rene\u0301e,support", "Ren\u00e9e,spring sale,support"

Ask = Callable[[Agent, str], Any]


@pytest.fixture(scope="module")
def server(module_server: Callable[..., GuardServer]) -> GuardServer:
    server: GuardServer = module_server()
    return server


@pytest.fixture
def agent(server: GuardServer, provider: Provider) -> Agent:
    with server.database(), transaction.atomic():
        return Agent.create(server)


def by_own_body(agent: Agent, given: str) -> Any:
    return agent.own_chat(tags=given)


def by_completion(agent: Agent, given: str) -> Any:
    return agent.chat(metadata={"tags": given})


def by_response(agent: Agent, given: str) -> Any:
    return agent.client.post("/v1/responses", json={"model": agent.model, "input": "Hi", "metadata": {"tags": given}})


def by_embedding(agent: Agent, given: str) -> Any:
    body = {"model": agent.embedding, "input": "Hi"}
    return agent.client.post("/v1/embeddings", json=body, headers={"X-Guard-Tags": given.encode()})


def by_header(agent: Agent, given: str) -> Any:
    return agent.chat({"X-Guard-Tags": given.encode()})  # type: ignore[dict-item]


def by_both(agent: Agent, given: str) -> Any:
    first, rest = given.split(",", 1)
    return agent.chat({"X-Guard-Tags": rest.encode()}, metadata={"tags": first})  # type: ignore[dict-item]


def stored(agent: Agent) -> set[str]:
    """Once all is settled, the tags of the agent's calls, holds and entries."""
    agent.entries()
    with agent.server.database():
        found = [
            model._default_manager.filter(tenant=agent.tenant_id).order_by().values_list("tags", flat=True).distinct()
            for model in (Call, LedgerEntry, Reservation)
        ]
        (tags,) = {tuple(sorted(each)) for each in found}
        return set(tags)


WAYS: list[Ask] = [by_own_body, by_completion, by_response, by_embedding, by_header, by_both]


@pytest.mark.parametrize("ask", WAYS)
def test_tags_are_tidied_and_stored_on_every_way_in(agent: Agent, ask: Ask) -> None:
    answer = ask(agent, GIVEN)
    assert answer.status_code == 200, answer.text
    assert stored(agent) == {KEPT}
    entry = agent.entry()
    with agent.server.database():
        tagged = TagRollup.objects.filter(tenant=agent.tenant_id)
        sums = set(tagged.values_list("tag", "attempts", "cost_ticks", "input_tokens", "calls"))
    assert sums == {(tag, 1, entry.cost_ticks, entry.input_tokens, 1) for tag in KEPT.split(",")}


@pytest.mark.parametrize("ask", WAYS)
@pytest.mark.parametrize("given", [",".join("abcdefghi"), f"a,{'t' * 65}"])
def test_too_many_and_too_long_ones_are_refused(agent: Agent, ask: Ask, given: str) -> None:
    answer = ask(agent, given)
    assert answer.status_code == 400
    assert "tags" in answer.json()["error"]["param"].lower()
    assert agent.calls() == []


def test_control_characters_and_other_kinds_are_refused(agent: Agent) -> None:
    for wrong in ("a\u2066b", 5, ["a"], {"a": "b"}):
        assert agent.own_chat(tags=wrong).status_code == 400
        assert agent.chat(metadata={"tags": wrong}).status_code == 400


def test_spend_is_grouped_by_tag_in_whole_quarters_and_in_parts_of_one_alike(agent: Agent) -> None:
    for given in ("a", "a,b", ""):
        assert by_own_body(agent, given).status_code == 200
    (cost,) = {entry.cost_ticks for entry in agent.entries(at_least=3)}
    since = timezone.now() - timedelta(days=1, seconds=1)
    for selection in (Selection(agent.tenant_id), Selection(agent.tenant_id, starts_at=since)):
        with agent.server.database():
            made = report(selection, GroupBy.TAG)
        assert {tag: (sums.cost_ticks, sums.calls) for (tag, _), sums in made.groups.items()} == {
            "a": (2 * cost, 2), "b": (cost, 1)
        }  # fmt: skip
        assert made.totals.cost_ticks == 3 * cost
    answer = agent.client.get("/api/spend?groupBy=tag").json()
    assert [group["group"] for group in answer["groups"]] == ["a", "b"]


def test_pages_and_files_show_them(agent: Agent) -> None:
    by_own_body(agent, "spring sale,support")
    (call,) = agent.calls()
    client, base = Client(), f"/tenants/{agent.tenant_id}"
    with agent.server.database():
        client.force_login(UserFactory.create(is_staff=True, password=None))
        assert "spring sale" in client.get(f"{base}/").content.decode()
        assert "spring sale,support" in client.get(f"{base}/calls/{call.id}/").content.decode()
        for file in ("tags.csv", "calls.csv", "ledger.csv", "focus.csv"):
            said = b"".join(client.get(f"{base}/{file}").streaming_content).decode()  # type: ignore[attr-defined]
            assert "spring sale" in said, file


def test_an_erased_customer_takes_its_own_tags_along(agent: Agent) -> None:
    agent.own_chat(tags="anna,shared", customerId="anna")
    agent.own_chat(tags="shared", customerId="berta")
    agent.entries(at_least=2)
    with agent.server.database():
        tenant = Tenant.objects.get(pk=agent.tenant_id)
        erase(Customer(tenant.id, "anna"))
        names = [tag.name for tag in every_tag(tenant, spans_at(timezone.now(), tenant.zone)["month"])]
    assert stored(agent) == {"", "shared"}
    assert "shared" in names
    assert "anna" not in names
    assert [name.startswith("erased-") for name in names if name != "shared"] == [True]
    audit(agent.server)
