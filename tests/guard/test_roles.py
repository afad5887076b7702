"""Who may do what, at every address: docs/roles.md has the rules, and each is tried as each role.

An address without a rule there fails, and so does a rule without an address.
"""

import asyncio
import re
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from io import BytesIO
from types import SimpleNamespace
from typing import Any

import pytest
from auditlog.models import LogEntry
from axes.models import AccessAttempt
from django.contrib.admin import site
from django.contrib.auth.models import Group, User
from django.contrib.contenttypes.models import ContentType
from django.core.handlers.asgi import ASGIRequest
from django.db import transaction
from django.http import HttpResponseBase
from django.test import Client
from django.urls import URLPattern, get_resolver
from django.utils import timezone
from django_otp.plugins.otp_totp.models import TOTPDevice

import guard.urls  # noqa: F401  loads the admin, as the server does
from guard.api.views.health import HEALTH_VIEWS
from guard.chat.urls import CHAT_VIEWS
from guard.embeddings.urls import EMBEDDINGS_VIEWS
from guard.http.error_pages import API_ADDRESSES
from guard.policy.keeper import PolicyKeeper
from guard.responses.urls import RESPONSES_VIEWS
from guard.worker.readiness import Readiness
from spend.capabilities import Lesson, LessonKind
from spend.models import Breaker, CatalogueModel, LearnedCapability, Provider, Window
from spend.pricing.learned_capabilities import learn
from tenants.access.roles import role
from tenants.models import ApiKey, OperatorToken, Scope, SsoIdentity, Tenant
from tenants.periods import Period, bounds
from tests.factories import ApiKeyFactory, BudgetFactory, CatalogueModelFactory, TenantFactory, UserFactory
from tests.support.environment import ROOT
from tests.support.history import place_background, place_call

pytestmark = [pytest.mark.django_db, pytest.mark.once]

DOCUMENT = (ROOT / "docs" / "roles.md").read_text()
ROLES = ("nobody", "agent", "manager", "other manager", "auditor", "operator", "token", "superuser")
OF_THE_ADMIN = ("auditor", "operator", "superuser")
PAGE_NAMES = {f"{model._meta.app_label}_{model._meta.model_name}": model for model in site._registry}
ASYNC_VIEWS = {**CHAT_VIEWS, **EMBEDDINGS_VIEWS, **RESPONSES_VIEWS, **HEALTH_VIEWS}
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")

MODELS, OTHERS = "Pages of models in the admin", "All other addresses"
API_PREFIXES = ("/api", "/v1")


def table_under(heading: str) -> list[dict[str, str]]:
    """The rows of the document's table, each cell by its column."""
    lines = DOCUMENT.partition(f"## {heading}\n")[2].partition("\n## ")[0].splitlines()
    header, _, *rows = (
        [cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines if "|" in line
    )
    return [dict(zip(header, row, strict=True)) for row in rows]


def patterns(resolvers: Any = None, prefix: str = "") -> Iterator[tuple[str, URLPattern]]:
    """Every address there is, its parameters as `<name>`."""
    for each in get_resolver().url_patterns if resolvers is None else resolvers:
        if isinstance(each, URLPattern):
            yield readable(prefix + str(each.pattern)), each
        else:
            yield from patterns(each.url_patterns, prefix + str(each.pattern))


def readable(route: str) -> str:
    if API_ADDRESSES in route:
        return "<any other address of an API>"
    named = re.sub(r"\(\?P(<\w+>)[^)]*\)", r"\1", route)
    return re.sub(r"<\w+:(\w+)>", r"<\1>", named).replace("^", "").replace("/?", "").replace("$", "")


def page_and_action(pattern: URLPattern) -> tuple[str, str] | None:
    """Of an admin page of a model: its name, and what the address does."""
    found = [name for name in PAGE_NAMES if (pattern.name or "").startswith(f"{name}_")]
    return (name := max(found, key=len), str(pattern.name)[len(name) + 1 :]) if found else None


@dataclass
class World:
    """One row of everything, and somebody of each role."""

    rows: dict[str, Any]
    clients: dict[str, Client]
    authorizations: dict[str, str]

    def pk_of(self, page_name: str) -> Any:
        model = PAGE_NAMES[page_name]
        return self.rows.get(page_name) or model._default_manager.values_list("pk", flat=True)[0]

    def address(self, route: str, page_name: str = "") -> str:
        known = {
            "tenant_id": "acme",
            "model_id": "only",
            "kind": "customer",
            "response_id": "resp_1",
            "what": "cancel",
            "app_label": "tenants",
            "url": "nowhere",
            "any other address of an API": "api/none",
            "content_type_id": ContentType.objects.get_for_model(Tenant).pk,
            "object_id": self.pk_of(page_name) if page_name else "acme",
            **self.rows,
        }
        return "/" + re.sub(r"<([^>]+)>", lambda found: str(known[found[1]]), route)

    def ask(self, who: str, method: str, path: str) -> str:
        """What comes of it; whatever it did is undone."""
        if path in ASYNC_VIEWS:
            return outcome_of(asyncio.run(self.ask_short_way(who, method, path)))
        is_form = not path.startswith(API_PREFIXES)
        kind = "application/x-www-form-urlencoded" if is_form else "application/json"
        client = self.clients[who]
        cookies = deepcopy(client.cookies)  # which signing out takes away
        with transaction.atomic():
            answer = client.generic(method, path, "" if is_form else "{}", content_type=kind)
            transaction.set_rollback(True)
        client.cookies = cookies
        return outcome_of(answer)

    async def ask_short_way(self, who: str, method: str, path: str) -> HttpResponseBase:
        headers = [(b"authorization", self.authorizations[who].encode())] if who in self.authorizations else []
        scope = {"type": "http", "method": method, "path": path, "headers": headers, "state": self.rows["state"]}
        answer: HttpResponseBase = await ASYNC_VIEWS[path](ASGIRequest(scope, BytesIO(b"{}")))
        return answer


def outcome_of(answer: Any) -> str:
    to_sign_in = answer.status_code == 302 and "/login/" in answer["Location"]
    if answer.status_code == 401 or to_sign_in:
        return "sign in"
    return {403: "no", 404: "404", 405: "405"}.get(answer.status_code, "yes")


@pytest.fixture
def world(settings: Any) -> World:
    settings.DEFAULT_ROUTE, settings.DEFAULT_DOWNGRADES, settings.METRICS_TOKEN = ["only"], [], "of-prometheus"
    settings.PASSWORD_HASHERS = ["tests.support.passwords.OneRound"]
    model = CatalogueModelFactory.create(id="only")
    tenant = TenantFactory.create(id="acme")
    key = ApiKeyFactory.create(tenant=tenant)
    rows: dict[str, Any] = {"key_id": key.pk}
    fill(tenant, key, model, rows)
    people = {
        "manager": person("manager", tenant=tenant),
        "other manager": person("manager", tenant=TenantFactory.create()),
        "auditor": person("auditor", is_staff=True),
        "operator": person("operator", is_staff=True),
        "superuser": UserFactory.create(is_staff=True, is_superuser=True),
        "token": person("operator"),
    }
    _, secret = OperatorToken.objects.issue(people["token"], "tests", None)
    rows["id"] = rows["auth_user"] = UserFactory.create().pk
    TOTPDevice.objects.create(user_id=rows["id"], name="app", confirmed=True)
    SsoIdentity.objects.create(user=UserFactory.create(password=None), issuer="https://login.example", subject="1")
    clients = {"nobody": Client(), "agent": Client(HTTP_AUTHORIZATION=f"Bearer {key.secret}")}
    clients |= {name: Client() for name in people}
    for name in people.keys() - {"token"}:
        clients[name].force_login(people[name])
    clients["token"] = Client(HTTP_AUTHORIZATION=f"Token {secret}")
    keeper = PolicyKeeper()
    keeper.refresh()
    rows["state"] = {"runtime": SimpleNamespace(policy=keeper.policy, keeper=keeper, readiness=Readiness(keeper))}
    return World(rows, clients, {"agent": f"Bearer {key.secret}", "token": f"Token {secret}"})


def person(group: str, tenant: Tenant | None = None, **flags: bool) -> User:
    user: User = UserFactory.create(**flags)
    user.groups.add(role(group))
    if tenant:
        tenant.members.add(user)
    return user


def fill(tenant: Tenant, key: ApiKey, model: CatalogueModel, rows: dict[str, Any]) -> None:
    """A row of each kind."""
    now = timezone.now()
    BudgetFactory.create(tenant=tenant)
    rows["tenants_budget"] = BudgetFactory.create(tenant=None, scope="installation").pk
    starts_at, ends_at = bounds(Period.DAY, tenant.zone, now)
    window = {"period": Period.DAY, "starts_at": starts_at, "ends_at": ends_at}
    Window.objects.create(tenant_id=tenant.id, scope=Scope.TENANT, **window)
    rows["call_id"] = place_call(tenant, key, now, model=model.pk, cost_ticks=1, customer="alice").pk
    place_background(tenant, now)
    Breaker.objects.create(model_id="only", opened_at=now, last_failure="timeout")
    learn(model.pk, [Lesson(LessonKind.PARAMETER, "stop")], "stop is no argument", now)
    rows["learned_id"] = LearnedCapability.objects.get().pk
    AccessAttempt.objects.create(username="olga", ip_address="203.0.113.5", failures_since_start=5, attempt_time=now)
    LogEntry.objects.log_create(tenant, action=LogEntry.Action.UPDATE, changes={"name": ["a", "b"]}, force_log=True)
    rows["spend_provider"] = rows["provider_name"] = Provider.objects.create(
        name="other", base_url="https://a.example"
    ).pk
    rows["auth_group"] = Group.objects.create(name="others").pk


# The pages of models

HOW = {"changelist": "GET", "history": "GET", "add": "GET", "delete": "GET"}
"""Everything else changes something, and is tried by sending its form, empty."""
WORDS = {"changelist": "view", "history": "view"}
FIRST = ("view", "add", "change", "delete")


def actions_of(page_name: str) -> dict[str, str]:
    """What can be done on a model's pages, by the address that does it."""
    found = {}
    for route, pattern in patterns():
        if (each := page_and_action(pattern)) and each[0] == page_name:
            found[each[1]] = route
    return found


def allowed(world: World, who: str, page_name: str) -> str:
    """The words of the document for what `who` may do, in its order; what they are told where that is nothing."""
    told: dict[str, set[str]] = {word: set() for word in FIRST}
    actions = actions_of(page_name)
    for action, route in actions.items():
        answer = world.ask(who, HOW.get(action, "POST"), world.address(route, page_name))
        told.setdefault(WORDS.get(action, action.replace("_", " ")), set()).add(answer)
    told["view"].add(world.ask(who, "GET", world.address(actions["change"], page_name)))
    assert all(len(answers) == 1 for answers in told.values()), (page_name, told)
    words = [word for word, answers in told.items() if answers == {"yes"}]
    return ", ".join(words) or "/".join(sorted(set.union(*told.values())))


@pytest.mark.parametrize("who", ROLES)
def test_what_each_role_may_do_on_the_pages_of_models(world: World, who: str) -> None:
    found = {page_name: allowed(world, who, page_name) for page_name in PAGE_NAMES}
    if who in OF_THE_ADMIN:
        assert found == {row["page"]: row[who] for row in table_under(MODELS)}
    else:
        assert set(found.values()) == {"sign in"}


# The other addresses


def other_addresses() -> Iterator[str]:
    """Each that is no page of a model, nor leads there only."""
    for route, pattern in patterns():
        if page_and_action(pattern) is None and not re.fullmatch(r"admin/\w+/\w+/<object_id>/", route):
            yield route


def methods_of(world: World, route: str) -> list[str]:
    """Those that are there at all, as an agent or a superuser is told."""
    path = world.address(route)
    methods = METHODS if path.startswith(API_PREFIXES) else ("GET", "POST")
    told = {method: [world.ask(who, method, path) for who in ("superuser", "agent")] for method in methods}
    return [method for method, answers in told.items() if answers[0] != "405" and not set(answers) <= {"405", "no"}]


@pytest.mark.parametrize("who", ROLES)
def test_what_each_role_is_told_at_every_other_address(world: World, who: str) -> None:
    assert {
        (f"/{route}", method): world.ask(who, method, world.address(route))
        for route in other_addresses()
        for method in methods_of(world, route)
    } == {(row["address"], method): row[who] for row in table_under(OTHERS) for method in row["methods"].split()}
