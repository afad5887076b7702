"""Agents of a running guard, each with a tenant and models of its own, and what the ledger says of them."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import orjson
import requests
from django.db import transaction

from spend.models import Call, LedgerEntry, Reservation, ReservationState, Window
from tests.factories import ApiKeyFactory, CatalogueModelFactory, RouteStepFactory, TenantFactory
from tests.support.books import assert_the_books_balance
from tests.support.server import Client, GuardServer

SETTLED_WITHIN_S = 30.0
HELLO = [{"role": "user", "content": "Where is my parcel? I have been waiting for it since Monday."}]
Json = dict[str, Any]


def events_of(answer: requests.Response) -> Iterator[Json | str]:
    """The events of a streamed answer as they arrive: objects, and what is none as text."""
    rest = b""
    for piece in answer.iter_content(None):
        *complete, rest = (rest + piece).split(b"\n\n")
        yield from map(_event, complete)
    assert rest == b"", "the stream ended within an event"


def served_by(answer: requests.Response) -> str:
    """The model, once the whole answer has come: a client that goes before is charged by what it was sent."""
    assert answer.status_code == 200, answer.text
    assert answer.content
    return answer.headers["X-Guard-Model"]


def _event(raw: bytes) -> Json | str:
    data = raw.removeprefix(b"data: ")
    return orjson.loads(data) if data.startswith(b"{") else data.decode()


def chunks_of(answer: requests.Response) -> list[Json]:
    """The objects among a stream's events, which must be closed by [DONE]."""
    *events, last = events_of(answer)
    assert last == "[DONE]", last
    return [event for event in events if isinstance(event, dict)]


def text_of(chunks: list[Json]) -> str:
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk.get("choices", ()))


def eventually(is_so: Callable[[], bool], within_s: float = SETTLED_WITHIN_S) -> None:
    deadline = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < deadline, "it did not come to be"
        time.sleep(0.02)


@dataclass
class Agent:
    """A key of a tenant with a primary model and a fallback, whom their provider knows by names of its own."""

    server: GuardServer
    tenant_id: str
    secret: str
    model: str
    fallback: str

    @classmethod
    def create(cls, server: GuardServer, **tenant: Any) -> "Agent":
        """Inside `server.database()` only."""
        key = ApiKeyFactory.create(tenant=TenantFactory.create(**tenant))
        names = [f"{key.tenant_id}-{name}" for name in ("primary", "fallback")]
        for position, name in enumerate(names):
            model = CatalogueModelFactory.create(id=name, upstream_name=upstream(name))
            RouteStepFactory.create(tenant=key.tenant, position=position, model=model)
        return cls(server, key.tenant_id, key.secret, *names)

    @classmethod
    def hire(cls, server: GuardServer) -> "Agent":
        """As `create`, for a server that runs: its key works at once."""
        with server.database(wait=False), transaction.atomic():
            return cls.create(server)

    @property
    def client(self) -> Client:
        return self.server.client_of(self.secret)

    def chat(self, headers: dict[str, str] | None = None, **body: Any) -> requests.Response:
        """A call in the OpenAI shape."""
        body = {"model": self.model, "messages": HELLO, **body}
        return self.client.post("/v1/chat/completions", json=body, headers=headers, stream=bool(body.get("stream")))

    def stream(self, headers: dict[str, str] | None = None, **body: Any) -> requests.Response:
        answer = self.chat(headers, stream=True, **body)
        assert answer.status_code == 200, answer.text
        return answer

    def own_chat(self, headers: dict[str, str] | None = None, **body: Any) -> requests.Response:
        """A call in the guard's own shape."""
        body = {"tenantId": self.tenant_id, "messages": HELLO, **body}
        return self.client.post("/api/chat", json=body, headers=headers, stream=bool(body.get("stream")))

    def pending(self) -> int:
        with self.server.database():
            return Reservation.objects.filter(tenant_id=self.tenant_id, state=ReservationState.PENDING).count()

    def calls(self) -> list[Call]:
        with self.server.database():
            return list(Call.objects.filter(tenant_id=self.tenant_id))

    def entries(self, at_least: int = 1) -> list[LedgerEntry]:
        """The ledger's entries, once there are so many and nothing is held any more; the windows agree with them."""
        eventually(lambda: self._settled() >= at_least)
        with self.server.database():
            entries = list(LedgerEntry.objects.filter(tenant_id=self.tenant_id).order_by("at"))
            for window in Window.objects.filter(tenant_id=self.tenant_id):
                assert window.held_ticks == 0
                assert window.spent_ticks == sum(entry.cost_ticks for entry in entries)
        return entries

    def entry(self) -> LedgerEntry:
        """The only entry, once nothing is held any more."""
        (entry,) = self.entries()
        return entry

    def _settled(self) -> int:
        if self.pending():
            return 0
        with self.server.database():
            return LedgerEntry.objects.filter(tenant_id=self.tenant_id).count()


def upstream(model: str) -> str:
    """The name of an agent's model at its provider."""
    return f"{model}-0501"


def audit(server: GuardServer) -> None:
    """The books of a server's database balance."""
    with server.connected():
        assert_the_books_balance()
