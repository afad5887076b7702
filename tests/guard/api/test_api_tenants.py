"""/api/tenants and /api/tenants/{tenant}/keys."""

from datetime import timedelta
from typing import Any

import pytest
from auditlog.models import LogEntry
from django.conf import settings
from django.utils import timezone

from tenants.models import ApiKey, Revision, RouteStep, Tenant
from tenants.trail.history import history_of
from tests.factories import ApiKeyFactory, CatalogueModelFactory, RouteStepFactory, TenantFactory
from tests.support.api import Api, agent, operator

pytestmark = pytest.mark.django_db

WHOLE = {
    "tenantId": "acme",
    "name": "Acme Corp",
    "isActive": True,
    "timeZone": "Europe/Berlin",
    "route": ["large", "small"],
    "downgrades": [{"from": "large", "to": "small"}, {"from": "*", "to": "tiny"}],
    "defaultMaxTokens": 512,
    "hideMoney": True,
    "contentDays": 30,
    "requestsPerMinute": None,
    "callsInFlight": None,
    "hardStop": "handoff",
    "handoffWords": "A colleague answers at {link}.",
    "handoffLanguage": "en",
    "handoffLink": "https://help.example.com",
    "handoffTranslations": {"de": "Mehr unter {link}, oder wieder ab {resets_at}.", "pt-BR": "Até logo."},
}


@pytest.fixture
def api() -> Api:
    for model_id in ("large", "small", "tiny", *settings.DEFAULT_ROUTE):
        CatalogueModelFactory.create(id=model_id)
    return operator()


def test_a_tenant_is_made_and_read_and_listed(api: Api) -> None:
    made = api.post("/api/tenants", WHOLE)
    assert (made.status_code, made.json()) == (201, WHOLE)
    assert api.get("/api/tenants/acme").json() == WHOLE
    assert api.get("/api/tenants").json() == {"tenants": [WHOLE]}


def test_only_the_id_is_needed(api: Api) -> None:
    made = api.post("/api/tenants", {"tenantId": "a.b-C_1"})
    assert made.json() == {
        "tenantId": "a.b-C_1",
        "name": "",
        "isActive": True,
        "timeZone": "UTC",
        "route": settings.DEFAULT_ROUTE,
        "downgrades": [{"from": source, "to": to} for source, to in settings.DEFAULT_DOWNGRADES],
        "defaultMaxTokens": 1024,
        "hideMoney": False,
        "contentDays": 0,
        "requestsPerMinute": None,
        "callsInFlight": None,
        "hardStop": "refuse",
        "handoffWords": "",
        "handoffLanguage": "en",
        "handoffLink": "",
        "handoffTranslations": {},
    }
    assert api.get("/api/tenants/a.b-C_1").json() == made.json()


def test_a_patch_changes_what_it_names(api: Api) -> None:
    api.post("/api/tenants", WHOLE)
    assert api.patch("/api/tenants/acme", {"isActive": False}).json() == {**WHOLE, "isActive": False}
    assert api.patch("/api/tenants/acme", {"route": ["small", "large"]}).json()["route"] == ["small", "large"]
    answer = api.patch("/api/tenants/acme", {"downgrades": [{"from": "*", "to": "small"}]})
    assert (answer.json()["route"], answer.json()["downgrades"]) == (["small", "large"], [{"from": "*", "to": "small"}])
    assert api.patch("/api/tenants/acme", {}).json() == answer.json()


def test_sending_back_what_was_read_changes_nothing(api: Api) -> None:
    for body in (WHOLE, {"tenantId": "plain"}):
        api.post("/api/tenants", body)
        before = LogEntry.objects.count(), RouteStep.objects.count()
        address = f"/api/tenants/{body['tenantId']}"
        read = api.get(address).json()
        assert api.patch(address, read).json() == read
        assert (LogEntry.objects.count(), RouteStep.objects.count()) == before


def test_a_route_of_its_own_replaces_the_default_downgrades_and_all(api: Api) -> None:
    api.post("/api/tenants", {"tenantId": "acme"})
    own = api.patch("/api/tenants/acme", {"route": ["large"]}).json()
    assert (own["route"], own["downgrades"]) == (["large"], [])
    back = api.patch("/api/tenants/acme", {"route": []}).json()
    assert (back["route"], len(back["downgrades"])) == (settings.DEFAULT_ROUTE, len(settings.DEFAULT_DOWNGRADES))


def test_the_default_route_without_downgrades(api: Api) -> None:
    api.post("/api/tenants", {"tenantId": "acme"})
    answer = api.patch("/api/tenants/acme", {"downgrades": []}).json()
    assert (answer["route"], answer["downgrades"]) == (settings.DEFAULT_ROUTE, [])


def test_a_moved_step_keeps_its_row_and_its_trail(api: Api) -> None:
    api.post("/api/tenants", WHOLE)
    rows = dict(RouteStep.objects.values_list("model_id", "pk"))
    api.patch("/api/tenants/acme", {"route": ["small", "large"]})
    assert dict(RouteStep.objects.values_list("model_id", "pk")) == rows
    entries = LogEntry.objects.filter(content_type__model="routestep", action=LogEntry.Action.UPDATE)
    assert [entry.changes for entry in entries.order_by("id")] == [{"position": ["1", "0"]}, {"position": ["0", "1"]}]
    assert {entry.actor for entry in entries} == {api.user}


@pytest.mark.parametrize("left", [{"de": "Bis bald."}, {}])
def test_words_in_other_languages_are_replaced_as_a_whole_and_in_the_trail(api: Api, left: dict[str, str]) -> None:
    api.post("/api/tenants", WHOLE)
    changed = api.patch("/api/tenants/acme", {"handoffTranslations": left})
    assert changed.json() == {**WHOLE, "handoffTranslations": left}
    told = [change.what for change in history_of(Tenant.objects.get(pk="acme")) if "translation" in change.what]
    assert len(told) == 4  # two were made, and two changed or taken away
    assert api.patch("/api/tenants/acme", changed.json()).json() == changed.json()
    again = [change for change in history_of(Tenant.objects.get(pk="acme")) if "translation" in change.what]
    assert len(again) == len(told)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"tenantId": ""}, "tenantId"),
        ({"tenantId": "-a"}, "tenantId"),
        ({"tenantId": "a/b"}, "tenantId"),
        ({"tenantId": "a" * 65}, "tenantId"),
        ({"tenantId": "ä"}, "tenantId"),
        ({"tenantId": "a\n"}, "tenantId"),
        ({"tenantId": "a\x00"}, "tenantId"),
        ({"tenantId": 5}, "tenantId"),
        ({"tenantId": None}, "tenantId"),
        ({"name": "x" * 201}, "name"),
        ({"name": "a\x00b"}, "name"),
        ({"name": 5}, "name"),
        ({"isActive": "true"}, "isActive"),
        ({"isActive": 1}, "isActive"),
        ({"isActive": None}, "isActive"),
        ({"timeZone": "Berlin"}, "timeZone"),
        ({"timeZone": "../../etc/passwd"}, "timeZone"),
        ({"timeZone": "localtime"}, "timeZone"),
        ({"timeZone": "Factory"}, "timeZone"),
        ({"timeZone": "posixrules"}, "timeZone"),
        ({"timeZone": ["UTC"]}, "timeZone"),
        ({"route": "large"}, "route"),
        ({"route": ["large", "large"]}, "route"),
        ({"route": ["large", "none"]}, "route.1"),
        ({"route": [7]}, "route.0"),
        ({"route": ["\x00"]}, "route.0"),
        ({"route": {"0": "large"}}, "route"),
        ({"route": ["large"] * 51}, "route"),
        ({"route": None}, "route"),
        ({"downgrades": [{"from": "large", "to": "large"}]}, "downgrades.0.to"),
        ({"downgrades": [{"from": "large", "to": "*"}]}, "downgrades.0.to"),
        ({"downgrades": [{"from": "none", "to": "small"}]}, "downgrades.0.from"),
        ({"downgrades": [{"from": "\x00", "to": "small"}]}, "downgrades.0.from"),
        ({"downgrades": [{"to": "small"}]}, "downgrades.0.from"),
        ({"downgrades": [{"from": "*", "to": "small", "at": 1}]}, "downgrades.0.at"),
        ({"downgrades": [{"from": "*", "to": "small"}] * 2}, "downgrades"),
        ({"downgrades": {"from": "*", "to": "small"}}, "downgrades"),
        ({"defaultMaxTokens": 0}, "defaultMaxTokens"),
        ({"defaultMaxTokens": -5}, "defaultMaxTokens"),
        ({"defaultMaxTokens": 2**31}, "defaultMaxTokens"),
        ({"defaultMaxTokens": 10**300}, "defaultMaxTokens"),
        ({"defaultMaxTokens": 5.0}, "defaultMaxTokens"),
        ({"defaultMaxTokens": "5"}, "defaultMaxTokens"),
        ({"defaultMaxTokens": True}, "defaultMaxTokens"),
        ({"hideMoney": "no"}, "hideMoney"),
        ({"contentDays": -1}, "contentDays"),
        ({"contentDays": 366}, "contentDays"),
        ({"hardStop": "stop"}, "hardStop"),
        ({"handoffWords": "Dear {name}"}, "handoffWords"),
        ({"handoffWords": ""}, "handoffWords"),
        ({"handoffWords": "x" * 2001}, "handoffWords"),
        ({"handoffLink": ""}, "handoffLink"),
        ({"handoffLink": "help"}, "handoffLink"),
        ({"handoffLink": "javascript:alert(1)"}, "handoffLink"),
        ({"handoffLanguage": "German"}, "handoffLanguage"),
        ({"handoffTranslations": {"de": "Lieber {name}"}}, "handoffTranslations.de"),
        ({"handoffTranslations": {"German": "Hallo"}}, "handoffTranslations"),
        ({"handoffTranslations": ["de"]}, "handoffTranslations"),
        ({"default_max_tokens": 5}, "default_max_tokens"),
        ({"members": []}, "members"),
        ({"id": "x"}, "id"),
    ],
)
def test_a_bad_tenant_is_refused_and_the_field_named(api: Api, change: dict[str, Any], param: str) -> None:
    api.post("/api/tenants", WHOLE)
    assert_refused(api.post("/api/tenants", {**WHOLE, "tenantId": "new", **change}), param)
    assert_refused(api.patch("/api/tenants/acme", change), param)
    assert api.get("/api/tenants").json() == {"tenants": [WHOLE]}


def assert_refused(answer: Any, param: str | None) -> None:
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("invalid_request", param)
    assert error["message"].startswith(f"{param}: ")


def test_an_id_is_given_once_and_for_all(api: Api) -> None:
    api.post("/api/tenants", WHOLE)
    assert_refused(api.post("/api/tenants", WHOLE), "tenantId")
    assert_refused(api.patch("/api/tenants/acme", {"tenantId": "acme-2"}), "tenantId")


@pytest.mark.parametrize("address", ["nobody", "%00", "a%2Fb", "..", "%F0%9F%90%99"])
def test_there_is_no_such_tenant(api: Api, address: str) -> None:
    for method in (api.get, api.patch):
        answer = method(f"/api/tenants/{address}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


# Keys


def test_a_key_is_seen_once_and_works_until_it_is_revoked(api: Api) -> None:
    TenantFactory.create(id="acme")
    issued = api.post("/api/tenants/acme/keys", {"name": "bot", "expiresAt": "2999-01-01T00:00:00+01:00"})
    assert issued.status_code == 201
    key = issued.json()
    secret = key.pop("key")
    assert key.pop("createdAt")
    assert key == {
        "id": key["id"], "name": "bot", "hint": secret[:8], "expiresAt": "2998-12-31T23:00:00Z", "revokedAt": None,
        "requestsPerMinute": None, "callsInFlight": None,
    }  # fmt: skip
    listed = api.get("/api/tenants/acme/keys")
    assert secret not in listed.text
    assert [each["id"] for each in listed.json()["keys"]] == [key["id"]]

    its_agent = Api()
    its_agent.credentials(HTTP_AUTHORIZATION=f"Bearer {secret}")
    assert its_agent.get("/api/budget").status_code == 200
    before = Revision.current()
    assert api.delete(f"/api/tenants/acme/keys/{key['id']}").status_code == 204
    assert its_agent.get("/api/budget").status_code == 401
    assert Revision.current() > before


def test_a_key_is_revoked_once(api: Api) -> None:
    key = ApiKeyFactory.create(revoked_at=timezone.now() - timedelta(days=1))
    assert api.delete(f"/api/tenants/{key.tenant_id}/keys/{key.pk}").status_code == 204
    assert ApiKey.objects.get().revoked_at == key.revoked_at


def test_the_trail_has_keys_but_no_secrets(api: Api) -> None:
    TenantFactory.create(id="acme")
    key = api.post("/api/tenants/acme/keys", {"name": "bot"}).json()
    api.delete(f"/api/tenants/acme/keys/{key['id']}")
    entries = LogEntry.objects.filter(content_type__model="apikey").order_by("id")
    assert [(entry.get_action_display(), entry.actor) for entry in entries] == [
        ("create", api.user),
        ("update", api.user),
    ]
    assert key["key"] not in str([entry.changes for entry in entries])


@pytest.mark.parametrize("key_id", ["0", "999", "9" * 40, "x", "-1"])
def test_there_is_no_such_key(api: Api, key_id: str) -> None:
    TenantFactory.create(id="acme")
    assert api.delete(f"/api/tenants/acme/keys/{key_id}").status_code == 404


def test_a_key_of_another_tenant_is_not_found(api: Api) -> None:
    TenantFactory.create(id="acme")
    theirs = ApiKeyFactory.create()
    assert api.delete(f"/api/tenants/acme/keys/{theirs.pk}").status_code == 404
    assert ApiKey.objects.get().revoked_at is None


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "name"),
        ({"name": ""}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"name": "bot", "expiresAt": "2020-01-01T00:00:00Z"}, "expiresAt"),
        ({"name": "bot", "expiresAt": "2999-01-01T00:00:00"}, "expiresAt"),
        ({"name": "bot", "expiresAt": "2999-01-01"}, "expiresAt"),
        ({"name": "bot", "expiresAt": "2999-02-30T00:00:00Z"}, "expiresAt"),
        ({"name": "bot", "expiresAt": "9999-12-31T23:59:59-12:00"}, "expiresAt"),
        ({"name": "bot", "expiresAt": 32472144000}, "expiresAt"),
        ({"name": "bot", "key": "grd_mine"}, "key"),
        ({"name": "bot", "id": 1}, "id"),
    ],
)
def test_a_bad_key_is_refused(api: Api, body: dict[str, Any], param: str) -> None:
    TenantFactory.create(id="acme")
    assert_refused(api.post("/api/tenants/acme/keys", body), param)
    assert not ApiKey.objects.exists()


def test_the_list_of_tenants_takes_few_queries(api: Api, django_assert_max_num_queries: Any) -> None:
    for _ in range(5):
        RouteStepFactory.create()
    with django_assert_max_num_queries(8):
        assert len(api.get("/api/tenants").json()["tenants"]) == 5
    assert Tenant.objects.count() == 5


def test_an_agent_edits_nothing(api: Api) -> None:
    key_holder = agent(TenantFactory.create(id="acme"))
    for address in (
        "tenants",
        "tenants/acme",
        "tenants/acme/keys",
        "tenants/acme/keys/1",
        "budgets/acme",
        "models",
        "models/large",
    ):
        for method in ("get", "post", "put", "patch", "delete"):
            answer = getattr(key_holder, method)(f"/api/{address}", {})
            assert answer.json()["error"]["code"] in ("forbidden", "method_not_allowed"), (address, method)
