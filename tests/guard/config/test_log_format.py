"""Logs: a JSON line a call in production, readable in development, and never a key or what was said."""

import json
import logging
from collections.abc import Callable
from logging.config import dictConfig

import pytest

from guard.config.log_format import log_config
from guard.telemetry.trace import facts_of
from tests.factories import ApiKeyFactory, CatalogueModelFactory, RouteStepFactory
from tests.support.agents import eventually
from tests.support.calls import chat_call, record_of
from tests.support.provider import Provider
from tests.support.server import GuardServer


def formatted(is_json: bool) -> str:
    """A call's line, as the setting's own formatter writes it."""
    config = log_config("INFO", is_json=is_json)
    line = logging.makeLogRecord(
        {"name": "guard.calls", "levelname": "INFO", "msg": "call", **facts_of(record_of(chat_call()))}
    )
    configurator = dictConfig.__globals__["DictConfigurator"](config)
    formatter: logging.Formatter = configurator.configure_formatter(dict(config["formatters"]["line"]))
    return formatter.format(line)


def test_json_for_machines() -> None:
    told = json.loads(formatted(is_json=True))
    assert told.pop("at")
    assert told == {
        "level": "INFO", "logger": "guard.calls", "message": "call", "request_id": "req_1", "tenant": "acme",
        "outcome": "served", "code": "", "requested_model": "grok-4.3", "model": "grok-4.3", "route": "primary",
        "cost_ticks": 12345, "duration_ms": 250,
    }  # fmt: skip


def test_readable_for_people() -> None:
    line = formatted(is_json=False)
    assert line.endswith(
        "INFO    guard.calls: call request_id=req_1 tenant=acme outcome=served requested_model=grok-4.3 "
        "model=grok-4.3 route=primary cost_ticks=12345 duration_ms=250"
    )


@pytest.mark.once
def test_a_server_writes_one_line_a_call_and_no_secret(
    guard_server: Callable[..., GuardServer], provider: Provider
) -> None:
    server = guard_server(start=False)
    with server.database():
        key = ApiKeyFactory.create()
        RouteStepFactory.create(tenant=key.tenant, model=CatalogueModelFactory.create(id="any-model"))
    server.start()
    agent = server.client_of(key.secret)
    body = {"model": "auto", "messages": [{"role": "user", "content": "the secret question"}]}
    agent.post("/v1/chat/completions", json=body, headers={"X-Request-Id": "first"})
    agent.post("/v1/chat/completions", json={**body, "stream": True}, headers={"X-Request-Id": "second"})
    provider.behave(status=500)
    agent.post("/v1/chat/completions", json=body, headers={"X-Request-Id": "third"})
    eventually(lambda: '"third"' in server.log)
    server.terminate()
    lines = [json.loads(line) for line in server.log.splitlines()]
    calls = [line for line in lines if line["logger"] == "guard.calls"]
    assert [(line["request_id"], line["outcome"]) for line in calls] == [
        ("first", "served"),
        ("second", "served"),
        ("third", "failed"),
    ]
    assert all(line["tenant"] == key.tenant_id and line["duration_ms"] >= 0 for line in calls)
    assert key.secret not in server.log
    assert "secret question" not in server.log
