"""Who may call what, and what every answer has: the envelope, the request's id, JSON."""

import os
import socket
import subprocess
import sys
from datetime import timedelta

import pytest
from django.conf import settings
from django.test import Client
from django.utils import timezone
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.test import APIRequestFactory, force_authenticate

from guard.api.base import OperatorView
from guard.api.permissions import permissions_on
from tenants.models import OperatorToken
from tests.factories import ApiKeyFactory, BudgetFactory, TenantFactory, UserFactory
from tests.support.api import agent, caller, operator
from tests.support.environment import ROOT

pytestmark = pytest.mark.django_db

AGENTS = ["/api/budget", "/api/spend", "/v1/models", "/v1/models/auto"]
OPERATORS = [
    "/api/tenants",
    "/api/tenants/acme",
    "/api/tenants/acme/keys",
    "/api/budgets/acme",
    "/api/models",
    "/api/spend",
]


@pytest.mark.parametrize("address", [*AGENTS, *OPERATORS])
@pytest.mark.parametrize(
    "authorization", [None, "Bearer", "Bearer grd_wrong", "Bearer ü", "Token wrong", "Basic YTpi", "nonsense"]
)
def test_no_key_or_a_bad_one(address: str, authorization: str | None) -> None:
    answer = caller(authorization).get(address)
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"
    assert answer["WWW-Authenticate"] == "Bearer"


def test_revoked_expired_and_disabled() -> None:
    now = timezone.now()
    tenant = TenantFactory.create()
    assert agent(tenant).get("/api/budget").status_code == 200
    assert agent(tenant, expires_at=now + timedelta(hours=1)).get("/api/budget").status_code == 200
    assert agent(tenant, expires_at=now).get("/api/budget").status_code == 401
    assert agent(tenant, revoked_at=now).get("/api/budget").status_code == 401
    assert agent(TenantFactory.create(is_active=False)).get("/api/budget").status_code == 403


def test_the_scheme_is_read_as_http_says() -> None:
    key = ApiKeyFactory.create()
    assert caller(f"bearer  {key.secret} ").get("/api/budget").status_code == 200


@pytest.mark.parametrize("address", OPERATORS)
def test_a_login_without_permission(address: str) -> None:
    _, token = OperatorToken.objects.issue(UserFactory.create(is_staff=True), "x", None)
    answer = caller(f"Token {token}").get(address)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")


def test_a_token_of_someone_who_left() -> None:
    _, token = OperatorToken.objects.issue(UserFactory.create(is_superuser=True, is_active=False), "x", None)
    assert caller(f"Token {token}").get("/api/tenants").status_code == 401


@pytest.mark.parametrize(
    ("permission", "method", "address"),
    [
        ("view_tenant", "get", "/api/tenants"),
        ("change_tenant", "get", "/api/tenants"),
        ("add_tenant", "post", "/api/tenants"),
        ("change_tenant", "patch", "/api/tenants/acme"),
        ("view_budget", "get", "/api/budgets/acme"),
        ("delete_budget", "delete", "/api/budgets/acme"),
        ("view_apikey", "get", "/api/tenants/acme/keys"),
        ("add_apikey", "post", "/api/tenants/acme/keys"),
        ("delete_apikey", "delete", "/api/tenants/acme/keys/1"),
        ("view_tenant", "get", "/api/models"),
        ("change_cataloguemodel", "patch", "/api/capabilities/m"),
        ("delete_learnedcapability", "delete", "/api/learned-capabilities/1"),
        ("view_tenant", "get", "/api/spend"),
    ],
)
def test_each_permission_opens_its_door_and_no_other(permission: str, method: str, address: str) -> None:
    TenantFactory.create(id="acme")
    assert getattr(operator(permission), method)(address, {} if method != "get" else None).status_code != 403
    verb, model = permission.split("_")
    others = [f"{each}_{model}" for each in ("view", "add", "change", "delete") if each != verb]
    if method == "get":
        others = [each for each in others if not each.startswith(("view", "change"))]
    for other in [*others, "view_topup"]:
        assert getattr(operator(other), method)(address, {} if method != "get" else None).status_code == 403, other


def test_a_method_without_a_rule_is_nobodys() -> None:
    class Forgotten(OperatorView):
        operator_permissions = permissions_on("tenant")

        def put(self, request: Request) -> Response:
            return Response()

        del operator_permissions["PUT"]

    request = APIRequestFactory().put("/")
    force_authenticate(request, UserFactory.create(is_superuser=True))
    assert Forgotten.as_view()(request).status_code == 403


def test_who_may_not_delete_budgets_may_not_replace_them() -> None:
    budget = BudgetFactory.create(tenant__id="acme")
    answer = operator("add_budget", "change_budget").put("/api/budgets/acme", {"budgets": []})
    assert answer.status_code == 403
    budget.refresh_from_db()


def test_who_may_change_a_tenant_sets_no_price() -> None:
    price = {"inputUsdPerMillion": "1"}
    for permissions in (["change_tenant"], ["change_cataloguemodel", "add_cataloguemodel"], ["add_price"]):
        assert operator(*permissions).put("/api/models/m", price).status_code == 403, permissions
    allowed = operator("change_cataloguemodel", "add_cataloguemodel", "add_price")
    assert allowed.put("/api/models/m", price).status_code == 400
    assert operator("change_tenant").patch("/api/capabilities/m", {}).status_code == 403
    assert operator("change_tenant", "delete_tenant").delete("/api/learned-capabilities/1").status_code == 403


def test_a_session_needs_the_csrf_token() -> None:
    user = UserFactory.create(is_superuser=True)
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(user)
    assert browser.get("/api/tenants").status_code == 200
    refused = browser.post("/api/tenants", {"tenantId": "acme"}, content_type="application/json")
    assert refused.status_code == 403
    assert "CSRF" in refused.json()["error"]["message"]


def test_the_request_id_is_kept_if_it_is_sane() -> None:
    api = operator()
    assert api.get("/api/tenants", headers={"X-Request-Id": "abc-1"})["X-Request-Id"] == "abc-1"
    for bad in ("a b", "x" * 129, "<script>"):
        answer = api.get("/api/tenants/nobody", headers={"X-Request-Id": bad})
        assert answer["X-Request-Id"].startswith("req_")
        assert answer.json()["error"]["requestId"] == answer["X-Request-Id"]


@pytest.mark.parametrize("address", ["/api/none", "/v1/none", "/api/", "/api/tenants/", "/v1/models/"])
@pytest.mark.parametrize("method", ["get", "post"])
def test_unknown_addresses_answer_in_the_envelope(address: str, method: str) -> None:
    answer = getattr(Client(enforce_csrf_checks=True), method)(address)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


def test_pages_answer_in_html() -> None:
    answer = Client().get("/no-such-page")
    assert (answer.status_code, answer["Content-Type"]) == (404, "text/html; charset=utf-8")


def test_a_bad_host_answers_in_the_envelope() -> None:
    answer = Client().get("/api/budget", headers={"Host": "evil.example"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")
    assert "'evil.example' is not served here: ALLOWED_HOSTS" in answer.json()["error"]["message"]


def test_a_method_that_is_not_there() -> None:
    answer = operator().delete("/api/tenants")
    assert (answer.status_code, answer.json()["error"]["code"]) == (405, "method_not_allowed")
    assert "POST" in answer["Allow"]


def test_a_caller_who_wants_something_else_gets_json() -> None:
    api = operator()
    for address in ("/api/tenants", "/api/tenants?format=xml"):
        answer = api.get(address, headers={"Accept": "text/html"})
        assert (answer.status_code, answer["Content-Type"]) == (200, "application/json")


def test_bodies_are_strict_json() -> None:
    api = operator()
    for body in (
        "",
        "{",
        "NaN",
        '{"tenantId": "a", "tenantId": "b"}',
        '{"tenantId": "\\ud800"}',
        "[" * 5000,
        '{"name": 1e999}',
    ):
        answer = api.post("/api/tenants", body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request"), body
    answer = api.post("/api/tenants", b"\xff", content_type="application/json")
    assert answer.status_code == 400
    for kind in (
        "text/plain",
        "multipart/form-data; boundary=x",
        "application/x-www-form-urlencoded",
        "application/xml",
    ):
        assert api.post("/api/tenants", b"tenantId=a", content_type=kind).status_code == 415, kind
    too_large = api.post("/api/tenants", b" " * (settings.MAX_BODY_BYTES + 1), content_type="application/json")
    assert (too_large.status_code, too_large.json()["error"]["code"]) == (413, "request_too_large")


# Without a database


ASK = """
import time
import django; django.setup()
from django.test import Client
started = time.monotonic()
answer = Client(headers={"Authorization": "Bearer x"}).get("/api/budget")
assert time.monotonic() - started < 60  # libpq by itself would wait for two minutes
print(answer.status_code, answer.content.decode())
"""


def ask_without(database_url: str) -> str:
    """The answer of a guard whose database is not there."""
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "guard.settings", "DATABASE_URL": database_url}
    asked = subprocess.run(
        [sys.executable, "-c", ASK], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert asked.returncode == 0, asked.stderr
    return asked.stdout


@pytest.mark.parametrize("kind", ["refusing", "silent"])
def test_a_key_is_not_refused_for_want_of_a_database(kind: str) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if kind == "silent":
            listener.listen()
        port = listener.getsockname()[1]
        budget = ask_without(f"postgres://someone:secret@127.0.0.1:{port}/guard")
    assert budget.startswith("503 ")
    assert "ledger_unavailable" in budget
    for leak in ("someone", "secret", "127.0.0.1", str(port), "refused", "timeout"):
        assert leak not in budget


# OpenAPI


def test_the_schema_and_its_page() -> None:
    schema = Client().get("/api/schema/", headers={"Accept": "application/json"})
    assert schema.status_code == 200
    paths = schema.json()["paths"]
    for address in (
        "/api/budgets/{tenant_id}",
        "/api/tenants/{tenant_id}/keys/{key_id}",
        "/api/spend",
        "/v1/models/{model_id}",
    ):
        assert address in paths
    page = Client().get("/api/docs/")
    assert page.status_code == 200
    for authorization in ("Bearer grd_wrong", "Token wrong", "nonsense"):
        for address in ("/api/schema/", "/api/docs/"):
            assert caller(authorization).get(address).status_code == 200, address
    assert "://" not in page.content.decode().replace("http://testserver", "")
