"""Single sign-on, against a real OpenID provider: who gets in as what, and who does not, however they try."""

from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from auditlog.models import LogEntry
from django.contrib.auth.models import Group, User
from django.test import Client
from django.utils import timezone

from tenants.access.roles import role
from tenants.models import OperatorToken, SsoIdentity
from tenants.sign_in.hashing import MOST_OF_ONE_CLIENT
from tenants.sign_in.sso import provider as sso_provider
from tenants.sign_in.sso.configured import read_roles
from tenants.sign_in.sso.views import CHECKS, COOKIE
from tests.factories import PASSWORD, TenantFactory, UserFactory
from tests.support.openid import CLIENT_SECRET, ROLES, OpenIdProvider

pytestmark = pytest.mark.django_db

HERE = "http://testserver"


@pytest.fixture
def openid(openid: OpenIdProvider, settings: Any) -> OpenIdProvider:
    """The guard's settings are for it, too."""
    for name, value in openid.settings(HERE).items():
        setattr(settings, name, value)
    settings.SSO_ROLES = read_roles(ROLES)
    settings.SESSION_COOKIE_SECURE = settings.CSRF_COOKIE_SECURE = False
    sso_provider._provider.cache_clear()
    return openid


@pytest.fixture
def browser() -> Client:
    return Client()


def path_of(url: str) -> str:
    assert url.startswith(f"{HERE}/sso/callback/")
    return url.removeprefix(HERE)


def begin(browser: Client, next_path: str = "") -> str:
    """From the login page's button to the provider: its address."""
    page = browser.get("/login/", {"next": next_path} if next_path else {})
    assert "Sign in with Shop ID" in page.content.decode()
    answer = browser.get("/sso/", {"next": next_path} if next_path else {})
    assert answer.status_code == 302, answer.content.decode()
    return str(answer["Location"])


def come_back(openid: OpenIdProvider, browser: Client, subject: str, next_path: str = "") -> Any:
    """The whole way, as a browser goes it; the guard's answer to the callback."""
    return browser.get(path_of(openid.agree(begin(browser, next_path), subject)))


def whoami(browser: Client) -> User | None:
    user_id = browser.session.get("_auth_user_id")
    return User.objects.get(pk=user_id) if user_id else None


def text_of(answer: Any) -> str:
    return " ".join(answer.content.decode().split())


# Who gets in, and as what


def test_a_first_sign_in_makes_a_login_with_its_roles(openid: OpenIdProvider, browser: Client) -> None:
    openid.person("olga", "steerers", "all", email="olga@shop.example", email_verified=True, given_name="Olga")
    answer = come_back(openid, browser, "olga", "/admin/")
    assert (answer.status_code, answer["Location"]) == (302, "/admin/")
    user = whoami(browser)
    assert user is not None
    assert (user.username, user.email, user.first_name) == ("olga", "olga@shop.example", "Olga")
    assert (user.is_staff, user.is_superuser, user.has_usable_password()) == (True, False, False)
    assert [group.name for group in user.groups.all()] == ["operator"]
    identity = SsoIdentity.objects.get(user=user)
    assert (identity.issuer, identity.subject) == (openid.issuer, "olga")
    assert browser.get("/admin/").status_code == 200


@pytest.mark.parametrize(
    ("groups", "staff", "superuser", "names"),
    [
        (["watchers"], True, False, ["auditor"]),
        (["watchers", "steerers"], True, False, ["auditor", "operator"]),
        (["owners"], True, True, []),
        (["shop"], False, False, ["manager"]),
    ],
)
def test_groups_are_roles(
    openid: OpenIdProvider, browser: Client, groups: list[str], staff: bool, superuser: bool, names: list[str]
) -> None:
    assert come_back(openid, browser, openid.person("pat", *groups)).status_code == 302
    user = User.objects.get()
    assert (user.is_staff, user.is_superuser) == (staff, superuser)
    assert list(user.groups.order_by("name").values_list("name", flat=True)) == names


def test_what_the_provider_takes_is_taken_and_what_was_given_by_hand_stays(
    openid: OpenIdProvider, browser: Client
) -> None:
    openid.person("olga", "steerers", "owners")
    come_back(openid, browser, "olga")
    user = User.objects.get()
    by_hand = Group.objects.create(name="night shift")
    user.groups.add(by_hand)
    tenant = TenantFactory.create()
    tenant.members.add(user)
    token = OperatorToken.objects.issue(user, "export", None)[0]
    openid.person("olga", "watchers")
    come_back(openid, Client(), "olga")
    user.refresh_from_db()
    assert (user.is_superuser, user.is_staff) == (False, True)
    assert set(user.groups.all()) == {by_hand, role("auditor")}
    assert list(tenant.members.all()) == [user]
    token.refresh_from_db()
    assert token.revoked_because == "role changed"


def test_who_signs_in_again_with_the_same_roles_keeps_their_tokens(openid: OpenIdProvider, browser: Client) -> None:
    openid.person("olga", "steerers")
    come_back(openid, browser, "olga")
    token = OperatorToken.objects.issue(User.objects.get(), "export", None)[0]
    come_back(openid, Client(), "olga")
    token.refresh_from_db()
    assert token.is_valid_at(timezone.now())


def test_who_has_no_group_is_told_so_and_gets_no_login(openid: OpenIdProvider, browser: Client) -> None:
    answer = come_back(openid, browser, openid.person("eve", "guests"))
    assert answer.status_code == 403
    assert "Shop ID knows you, but no group of yours there is a role in the guard." in text_of(answer)
    assert not User.objects.exists()
    assert whoami(browser) is None


def test_a_group_that_there_is_not_is_no_role(openid: OpenIdProvider, browser: Client, settings: Any) -> None:
    settings.SSO_ROLES = read_roles('{"watchers": ["no such group"]}')
    assert come_back(openid, browser, openid.person("olga", "watchers")).status_code == 403
    assert not User.objects.exists()


def test_a_group_may_be_several_roles_and_one_of_the_shops_own(
    openid: OpenIdProvider, browser: Client, settings: Any
) -> None:
    Group.objects.create(name="finance")
    settings.SSO_ROLES = read_roles('{"watchers": ["finance", "staff"]}')
    come_back(openid, browser, openid.person("olga", "watchers"))
    user = User.objects.get()
    assert (user.is_staff, [group.name for group in user.groups.all()]) == (True, ["finance"])


def test_who_has_no_role_any_more_loses_all_of_it_where_they_are_signed_in_too(
    openid: OpenIdProvider, browser: Client
) -> None:
    come_back(openid, browser, openid.person("olga", "owners"))
    assert browser.get("/admin/").status_code == 200
    openid.person("olga")
    assert come_back(openid, Client(), "olga").status_code == 403
    assert browser.get("/admin/").status_code == 302
    user = User.objects.get()
    assert (user.is_superuser, user.is_staff, user.groups.count()) == (False, False, 0)


def test_who_is_deactivated_stays_out(openid: OpenIdProvider, browser: Client) -> None:
    come_back(openid, browser, openid.person("olga", "owners"))
    User.objects.update(is_active=False)
    other = Client()
    answer = come_back(openid, other, "olga")
    assert (answer.status_code, User.objects.count()) == (403, 1)
    assert "was deactivated" in text_of(answer)
    assert (whoami(other), browser.get("/").status_code) == (None, 302)


def test_sign_ins_are_in_the_trail(openid: OpenIdProvider, browser: Client) -> None:
    come_back(openid, browser, openid.person("olga", "watchers"))
    openid.person("olga")
    come_back(openid, Client(), "olga")
    told = LogEntry.objects.get_for_object(User.objects.get()).order_by("id")
    ways = [entry.changes["sign-in"][1] for entry in told if "sign-in" in entry.changes]
    assert ways == ["by Shop ID, as auditor", "refused: no role (Shop ID)"]
    assert {(entry.additional_data or {}).get("by") for entry in told} == {"single sign-on"}
    assert LogEntry.objects.filter(content_type__model="ssoidentity", action=LogEntry.Action.CREATE).count() == 1


def test_groups_may_be_inside_another_claim_or_told_by_userinfo(
    openid: OpenIdProvider, browser: Client, settings: Any
) -> None:
    settings.SSO_ROLES_CLAIM = "realm_access.roles"
    come_back(openid, browser, openid.person("olga", realm_access={"roles": ["watchers"]}))
    assert User.objects.get().is_staff
    settings.SSO_ROLES_CLAIM = "groups"
    openid.get_wrong(without=["groups"])
    openid.person("paul", "watchers")
    assert come_back(openid, Client(), "paul").status_code == 302
    openid.get_wrong(without=["groups"], userinfo={"sub": "olga"})
    assert come_back(openid, Client(), "paul").status_code == 403


@pytest.mark.parametrize(("is_verified", "status"), [(True, 302), (False, 403), ("true", 403), (None, 403)])
def test_an_address_is_a_role_only_if_it_is_theirs(
    openid: OpenIdProvider, browser: Client, settings: Any, is_verified: Any, status: int
) -> None:
    settings.SSO_ROLES_CLAIM, settings.SSO_ROLES = "email", read_roles('{"olga@shop.example": "operator"}')
    openid.person("olga", email="olga@shop.example", email_verified=is_verified)
    assert come_back(openid, browser, "olga").status_code == status


def test_sessions_end_and_roles_are_asked_for_again(openid: OpenIdProvider, browser: Client, settings: Any) -> None:
    settings.SSO_SESSION_HOURS = 2
    come_back(openid, browser, openid.person("olga", "watchers"))
    assert 7100 < browser.session.get_expiry_age() <= 7200


# Whose login it is


def test_a_login_is_not_taken_over_by_its_name_or_address(openid: OpenIdProvider, browser: Client) -> None:
    """Whoever may choose those at the provider would be anybody here."""
    local = UserFactory.create(username="Olga", email="olga@shop.example", is_superuser=True, is_staff=True)
    openid.person("mallory", "shop", preferred_username="olga", email="olga@shop.example", email_verified=True)
    assert come_back(openid, browser, "mallory").status_code == 302
    user = whoami(browser)
    assert user is not None
    assert (user.pk != local.pk, user.username, user.is_staff) == (True, "olga-2", False)
    assert not hasattr(User.objects.get(pk=local.pk), "sso_identity")


def test_a_login_stays_the_persons_whatever_they_are_called_now(openid: OpenIdProvider, browser: Client) -> None:
    come_back(openid, browser, openid.person("olga", "watchers", email="a@shop.example", email_verified=True))
    openid.person("olga", "watchers", preferred_username="someone", email="b@shop.example", email_verified=True)
    come_back(openid, Client(), "olga")
    assert list(User.objects.values_list("username", "email")) == [("olga", "b@shop.example")]


def test_whatever_people_call_themselves_they_get_in(openid: OpenIdProvider, browser: Client) -> None:
    openid.person("olga", "watchers", preferred_username="Ol/ga\0 ü", given_name="O\0lga" + "a" * 200, family_name=1)
    assert come_back(openid, browser, "olga").status_code == 302
    user = User.objects.get()
    assert (user.username, user.first_name[:6], user.last_name) == ("Ol-ga-ü", "Olgaaa", "")


def test_another_issuers_person_of_the_same_id_is_another(openid: OpenIdProvider, browser: Client) -> None:
    local = UserFactory.create(username="theirs")
    SsoIdentity.objects.create(user=local, issuer="https://other.example", subject="olga")
    come_back(openid, browser, openid.person("olga", "watchers"))
    assert whoami(browser) != local


def test_a_login_that_was_there_can_be_bound_by_hand(openid: OpenIdProvider, browser: Client) -> None:
    local = UserFactory.create(username="olga")
    SsoIdentity.objects.create(user=local, issuer=openid.issuer, subject="0815")
    come_back(openid, browser, openid.person("0815", "watchers"))
    assert whoami(browser) == local


# Attacks


def test_a_forged_state_is_refused(openid: OpenIdProvider, browser: Client) -> None:
    """Nobody is signed in as another by a link that the other made."""
    attackers = path_of(openid.agree(begin(Client()), openid.person("mallory", "owners")))
    for path in (attackers, attackers.replace("state=", "state=x"), "/sso/callback/?code=x"):
        assert browser.get(path).status_code == 400  # nothing begun here
    begin(browser)
    answer = browser.get(attackers)
    assert answer.status_code == 400
    assert "was begun in another browser" in text_of(answer)
    assert (whoami(browser), User.objects.count()) == (None, 0)


def test_a_code_works_once(openid: OpenIdProvider, browser: Client) -> None:
    path = path_of(openid.agree(begin(browser), openid.person("olga", "owners")))
    kept = browser.cookies[COOKIE].value
    assert browser.get(path).status_code == 302
    browser.post("/logout/")
    assert browser.get(path).status_code == 400
    thief = Client()
    thief.cookies[COOKIE] = kept
    assert thief.get(path).status_code == 403
    assert whoami(thief) is None


def test_what_was_begun_is_taken_away_as_it_was_set(openid: OpenIdProvider, browser: Client, settings: Any) -> None:
    settings.SESSION_COOKIE_SECURE = True
    set_, gone = (browser.get(path).cookies[COOKIE] for path in ("/sso/", "/sso/callback/"))
    assert (gone.value, gone["max-age"]) == ("", 0)
    marks = ("path", "secure", "httponly", "samesite", "domain")
    assert [gone[mark] for mark in marks] == [set_[mark] for mark in marks] == ["/sso/", True, True, "Lax", ""]


def test_a_code_of_another_sign_in_is_refused(openid: OpenIdProvider, browser: Client) -> None:
    """By PKCE, whatever the provider thinks of the state."""
    stolen = parse_qs(urlsplit(openid.agree(begin(Client()), openid.person("olga", "owners"))).query)["code"][0]
    state = parse_qs(urlsplit(begin(browser)).query)["state"][0]
    assert browser.get("/sso/callback/", {"code": stolen, "state": state}).status_code == 403
    assert whoami(browser) is None


def test_a_forged_or_old_cookie_is_none(openid: OpenIdProvider, browser: Client, monkeypatch: Any) -> None:
    path = path_of(openid.agree(begin(browser), openid.person("olga", "owners")))
    kept = browser.cookies[COOKIE].value
    browser.cookies[COOKIE] = kept[:-1] + ("A" if kept[-1] != "A" else "B")
    assert browser.get(path).status_code == 400
    monkeypatch.setattr("tenants.sign_in.sso.views.BEGUN_FOR_S", -1)
    browser.cookies[COOKIE] = kept
    assert browser.get(path).status_code == 400


WRONG: dict[str, dict[str, Any]] = {
    "the nonce of another sign-in": {"claims": {"nonce": "another"}},
    "no nonce": {"without": ["nonce"]},
    "a token for another client": {"claims": {"aud": "other"}},
    "a token for another client, got by ours": {"claims": {"aud": ["other"], "azp": "guard"}},
    "a token for both, got by the other": {"claims": {"aud": ["guard", "other"], "azp": "other"}},
    "no audience": {"without": ["aud"]},
    "a token of another issuer": {"claims": {"iss": "https://other.example"}},
    "no issuer": {"without": ["iss"]},
    "no subject": {"without": ["sub"]},
    "an empty subject": {"claims": {"sub": ""}},
    "a subject that is a list": {"claims": {"sub": ["olga"]}},
    "a subject that no database takes": {"claims": {"sub": "olga\0"}},
    "a subject too long to be one": {"claims": {"sub": "x" * 256}},
    "a token that has expired": {"claims": {"exp": 1_000_000_000}},
    "a token without an end": {"without": ["exp"]},
    "a token that is not yet valid": {"claims": {"nbf": 9_999_999_999}},
    "no signature": {"alg": "none"},
    "no signature, which the provider says is fine": {
        "alg": "none",
        "metadata": {"id_token_signing_alg_values_supported": ["none", "RS256"]},
    },
    "signed by the public key": {
        "alg": "HS256",
        "metadata": {"id_token_signing_alg_values_supported": ["HS256", "RS256"]},
    },
    "signed by the client's secret": {
        "alg": "HS256",
        "signed_by": "the client",
        "metadata": {"id_token_signing_alg_values_supported": ["HS256"]},
    },
    "signed by somebody else": {"signed_by": "somebody else"},
}


@pytest.mark.parametrize("name", WRONG)
def test_a_token_that_does_not_hold_is_refused(
    openid: OpenIdProvider, browser: Client, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    openid.get_wrong(**WRONG[name])
    answer = come_back(openid, browser, openid.person("olga", "owners"))
    assert answer.status_code == 403
    assert "This answer cannot be trusted" in text_of(answer)
    assert (whoami(browser), User.objects.count()) == (None, 0)
    assert "NotBelieved" in caplog.text
    assert CLIENT_SECRET not in caplog.text


def test_an_answer_that_names_another_issuer_is_refused(openid: OpenIdProvider, browser: Client) -> None:
    path = path_of(openid.agree(begin(browser), openid.person("olga", "owners")))
    assert browser.get(f"{path}&iss=https://other.example").status_code == 403


def test_new_keys_of_the_provider_are_taken(openid: OpenIdProvider, browser: Client) -> None:
    openid.person("olga", "watchers")
    assert come_back(openid, browser, "olga").status_code == 302
    openid.get_wrong(rotate=True)
    assert come_back(openid, Client(), "olga").status_code == 302


@pytest.mark.parametrize(
    "elsewhere",
    [
        "/?" + "x" * 1500,
        "https://evil.example/",
        "//evil.example",
        "/\\evil.example",
        "http:evil.example",
        "javascript:alert(1)",
        "",
    ],
)
def test_nobody_is_sent_elsewhere_after_it(openid: OpenIdProvider, browser: Client, elsewhere: str) -> None:
    answer = come_back(openid, browser, openid.person("olga", "watchers"), elsewhere)
    assert (answer.status_code, answer["Location"]) == (302, "/")


def test_one_clients_flood_of_answers_leaves_places_to_others(openid: OpenIdProvider, browser: Client) -> None:
    path = path_of(openid.agree(begin(browser), openid.person("olga", "watchers")))
    places = [CHECKS.one("127.0.0.1") for _ in range(MOST_OF_ONE_CLIENT)]
    for place in places:
        place.__enter__()
    try:
        assert browser.get(path).status_code == 429
    finally:
        for place in places:
            place.__exit__(None, None, None)


# What goes wrong without an attack


def test_who_does_not_agree_is_told_how_to_begin_anew(openid: OpenIdProvider, browser: Client) -> None:
    answer = browser.get(path_of(openid.refuse(begin(browser))))
    assert answer.status_code == 403
    assert "Shop ID did not let you in" in text_of(answer)


@pytest.mark.parametrize(
    ("wrong", "status", "words"),
    [
        ({"is_down": True}, 502, "Shop ID does not answer"),
        ({"is_nonsense": True}, 502, "Shop ID does not answer"),
        ({"metadata": {"issuer": "https://other.example"}}, 403, "cannot be trusted"),
        ({"metadata": {"jwks_uri": None}}, 403, "cannot be trusted"),
    ],
)
def test_a_provider_that_cannot_be_used_is_a_plain_page(
    openid: OpenIdProvider, browser: Client, wrong: dict[str, Any], status: int, words: str
) -> None:
    openid.get_wrong(**wrong)
    for _ in range(2):
        answer = browser.get("/sso/")
        assert (answer.status_code, words in text_of(answer)) == (status, True)
    openid.reset()
    sso_provider._provider.cache_clear()
    assert browser.get("/sso/").status_code == 302


def test_nobody_answers_there(openid: OpenIdProvider, browser: Client, settings: Any, caplog: Any) -> None:
    settings.SSO_ISSUER = "http://127.0.0.1:1"
    assert browser.get("/sso/").status_code == 502
    assert "cannot be reached: ConnectionError" in caplog.text


def test_a_wrong_secret_is_said_and_not_shown(
    openid: OpenIdProvider, browser: Client, settings: Any, caplog: Any
) -> None:
    settings.SSO_CLIENT_SECRET = "quite-another-secret"
    answer = come_back(openid, browser, openid.person("olga", "owners"))
    assert answer.status_code == 502
    assert "refused the guard itself, and not you" in text_of(answer)
    assert "the provider said invalid_client" in caplog.text
    code = parse_qs(urlsplit(openid.agree(begin(browser), "olga")).query)["code"][0]
    browser.get("/sso/callback/", {"code": code, "state": "another"})
    for secret in (settings.SSO_CLIENT_SECRET, CLIENT_SECRET, code):
        assert secret not in caplog.text + text_of(answer)


# Beside it: passwords, and no single sign-on at all


def test_without_it_there_is_no_button_and_no_address(client: Client) -> None:
    for path in ("/login/", "/admin/login/"):
        assert "Sign in with" not in client.get(path).content.decode()
    assert client.get("/sso/").status_code == 404


@pytest.mark.parametrize("path", ["/login/", "/admin/login/"])
def test_the_password_form_can_be_hidden_and_still_works(
    openid: OpenIdProvider, browser: Client, settings: Any, path: str
) -> None:
    assert 'name="password"' in text_of(browser.get(path))
    settings.SSO_HIDES_PASSWORDS = True
    assert 'name="password"' not in text_of(browser.get(path))
    assert "Sign in with Shop ID" in text_of(browser.get(path))
    assert 'name="password"' in text_of(browser.get(f"{path}?local"))
    UserFactory.create(username="emergency", is_staff=True)
    form = {"username": "emergency", "password": "wrong"}
    assert 'name="password"' in text_of(browser.post(path, form))
    assert browser.post(path, {**form, "password": PASSWORD}).status_code == 302


def test_the_lock_out_of_passwords_holds(openid: OpenIdProvider, browser: Client) -> None:
    UserFactory.create(username="emergency")
    for _ in range(5):
        browser.post("/login/", {"username": "emergency", "password": "wrong"})
    assert browser.post("/login/", {"username": "emergency", "password": PASSWORD}).status_code == 429
    come_back(openid, browser, openid.person("mallory", "shop", preferred_username="emergency"))
    assert Client().post("/login/", {"username": "emergency", "password": PASSWORD}).status_code == 429


def test_a_login_of_the_provider_has_no_password_to_guess(openid: OpenIdProvider, browser: Client) -> None:
    come_back(openid, browser, openid.person("olga", "owners"))
    assert "Password" not in text_of(browser.get("/"))
    for password in ("", "!", PASSWORD):
        assert Client().post("/login/", {"username": "olga", "password": password}).status_code == 200


def test_who_logs_out_is_told_where_else_they_are_signed_in(openid: OpenIdProvider, browser: Client) -> None:
    come_back(openid, browser, openid.person("olga", "watchers"))
    answer = browser.post("/logout/", follow=True)
    assert whoami(browser) is None
    assert "still signed in at Shop ID" in text_of(answer)
    there = browser.get("/sso/sign-out/")["Location"]
    assert there.startswith(f"{openid.issuer}/oauth2/end_session?")
    assert parse_qs(urlsplit(there).query)["post_logout_redirect_uri"] == [f"{HERE}/login/"]
    UserFactory.create(username="local")
    browser.force_login(User.objects.get(username="local"))
    assert browser.post("/logout/")["Location"] == "/login/"
