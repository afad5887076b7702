"""How common clients put their address, key and body: all of it works, or says in the envelope what to change."""

from typing import Any

import orjson
import pytest
import requests

from tests.support.agents import HELLO, Agent, upstream
from tests.support.provider import Provider
from tests.support.server import GuardServer

pytestmark = pytest.mark.once

USAGE = {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30}


@pytest.fixture(scope="module")
def agents(shared_server: GuardServer) -> Agent:
    return Agent.hire(shared_server)


@pytest.fixture
def agent(agents: Agent, provider: Provider) -> Agent:
    provider.behave(upstream(agents.model), usage=USAGE)
    return agents


def ask(agent: Agent, path: str = "/v1/chat/completions", method: str = "POST", **options: Any) -> requests.Response:
    """As `requests` sends it, without any key of its own."""
    body = {"tenantId": agent.tenant_id, "messages": HELLO} if path == "/api/chat" else {
        "model": agent.model, "messages": HELLO,
    }  # fmt: skip
    given = {"json": body, **options} if "data" not in options else options
    return requests.request(method, f"{agent.server.url}{path}", timeout=30, allow_redirects=False, **given)


def refused(answer: requests.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/json"
    error = answer.json()["error"]
    assert answer.headers["X-Request-Id"] in (error.get("request_id"), error.get("requestId"))
    return str(error["message"])


PATHS = pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions", "/v1/models"])


@PATHS
@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer {}"},
        {"Authorization": "Bearer Bearer {}"},
        {"Authorization": "bearer   bearer  {}"},
        {"api-key": "{}"},
        {"x-api-key": "{} "},
        {"X-Api-Key": "{}", "Api-Key": "{}", "Authorization": "Bearer {}"},
        {"x-api-key": "{}", "Authorization": "Basic Og=="},
    ],
)
def test_a_key_works_where_common_clients_put_it(agent: Agent, path: str, headers: dict[str, str]) -> None:
    given = {name: value.format(agent.secret) for name, value in headers.items()}
    method = "GET" if path == "/v1/models" else "POST"
    assert ask(agent, path, method, headers=given).status_code == 200


@PATHS
@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer {}", "x-api-key": "another"},
        {"Authorization": "Bearer another", "api-key": "{}"},
        {"api-key": "{}", "x-api-key": "another"},
    ],
)
def test_two_keys_that_differ_are_none(agent: Agent, path: str, headers: dict[str, str]) -> None:
    given = {name: value.format(agent.secret) for name, value in headers.items()}
    method = "GET" if path == "/v1/models" else "POST"
    assert "different keys" in refused(ask(agent, path, method, headers=given), 401)


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
def test_a_byte_order_mark_is_no_part_of_the_body(agent: Agent, path: str) -> None:
    own = {"tenantId": agent.tenant_id} if path == "/api/chat" else {}
    body = orjson.dumps({"model": agent.model, "messages": HELLO, **own})
    headers = {"Authorization": f"Bearer {agent.secret}", "Content-Type": "application/json"}
    assert ask(agent, path, data=b"\xef\xbb\xbf" + body, headers=headers).status_code == 200


def test_an_api_version_is_not_minded(agent: Agent) -> None:
    headers = {"api-key": agent.secret}
    assert ask(agent, "/v1/chat/completions?api-version=2026-01-01", headers=headers).status_code == 200


@pytest.mark.parametrize("method", ["POST", "GET", "OPTIONS"])
@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("//v1/chat/completions", "/v1/chat/completions"),
        ("/v1//chat/completions", "/v1/chat/completions"),
        ("/v1/chat/completions/", "/v1/chat/completions"),
        ("/v1/v1/chat/completions", "/v1/chat/completions"),
        ("/chat/completions", "/v1/chat/completions"),
        ("/openai/deployments/x/chat/completions?api-version=1", "/v1/chat/completions"),
        ("/v1/v1/models", "/v1/models"),
        ("/api/chat/", "/api/chat"),
        ("//api/chat", "/api/chat"),
        ("/v1", "/v1, once"),
        ("/v1/", "/v1, once"),
        ("/v1/nothing", "/v1, once"),
        ("/api", "nothing at this address"),
        ("/api/nothing", "nothing at this address"),
    ],
)
def test_an_address_that_is_not_quite_right_says_which_is(agent: Agent, method: str, path: str, meant: str) -> None:
    answer = ask(agent, path, method, headers={"Authorization": f"Bearer {agent.secret}"})
    assert meant in refused(answer, 404)
    id_name = "requestId" if path.lstrip("/").startswith("api") else "request_id"
    assert id_name in answer.json()["error"]


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
def test_another_method_says_which_is_right(agent: Agent, path: str) -> None:
    answer = ask(agent, path, "GET")
    assert "takes POST" in refused(answer, 405)
    assert answer.headers["Allow"] == "POST"
    head = ask(agent, path, "HEAD")
    assert (head.status_code, head.headers["Content-Type"], head.content) == (405, "application/json", b"")


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
def test_a_page_of_another_origin_is_told_that_it_cannot_call(agent: Agent, path: str) -> None:
    headers = {"Origin": "https://shop.example", "Access-Control-Request-Method": "POST"}
    answer = ask(agent, path, "OPTIONS", headers=headers)
    assert "from your server" in refused(answer, 405)
    assert not [name for name in answer.headers if name.lower().startswith("access-control")]
