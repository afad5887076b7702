"""A database that is away is one line in the log with the reason, and one when it is back."""

import logging
from collections.abc import Callable
from urllib.parse import urlsplit

import pytest
from django.db import OperationalError

from spend.outage import Outage
from tests.support.agents import Agent, eventually, upstream
from tests.support.provider import Provider
from tests.support.race import on_postgres
from tests.support.server import GuardServer
from tests.support.wire import wire_to

AWAY, BACK = "the database cannot be used: ", "the database can be used again"


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    return [(record.levelno, record.message) for record in caplog.records]


def test_it_is_told_once_whoever_notices_and_once_when_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    outage = Outage()
    outage.is_over()
    for reason in ("connection refused\nIs the server running?", "the server closed the connection", "timeout"):
        outage.failed(OperationalError(reason))
    assert told(caplog) == [(logging.ERROR, AWAY + "connection refused Is the server running?")]
    outage.is_over()
    outage.is_over()
    assert len(told(caplog)) == 2
    assert told(caplog)[1][1].startswith(BACK)


def test_one_that_comes_and_goes_fills_no_log(caplog: pytest.LogCaptureFixture) -> None:
    outage = Outage()
    for _ in range(100):
        outage.failed(OperationalError("locked"))
        outage.is_over()
    assert len(told(caplog)) == 2


@on_postgres
def test_a_server_and_its_background_say_it_once_each(
    guard_server: Callable[..., GuardServer], provider: Provider
) -> None:
    server = guard_server(start=False)
    with server.database():
        agent = Agent.create(server)
    provider.behave(upstream(agent.model))
    near = urlsplit(server.database_url)
    with wire_to(near.port or 5432) as wire:
        server.environment |= {
            "DATABASE_URL": server.database_url.replace(f":{near.port}/", f":{wire.port}/"),
            "BACKGROUND": "true",
        }
        server.start()
        assert agent.chat().status_code == 200
        wire.cut()
        eventually(lambda: server.client.get("/api/health/ready").json()["missing"] == ["database"])
        assert [agent.chat().status_code for _ in range(3)] == [503] * 3
        eventually(lambda: server.log.count(AWAY) == 2)
        wire.mend()
        eventually(lambda: server.client.get("/api/health/ready").ok)
        eventually(lambda: agent.chat().status_code == 200)
        eventually(lambda: server.log.count(BACK) == 2)
        server.terminate()
    assert server.log.count(AWAY) == 2, "one by the worker, one by the background"
    assert "Traceback" not in server.log.partition(AWAY)[2].partition(BACK)[0]
