"""Settings: every one documented, every documented one read, and a bad value named at the start."""

import ast
import re
from collections.abc import Iterator

import pytest

from guard.config.environment import dialect
from tests.support.environment import ROOT, environment_of_tests
from tests.support.server import manage

pytestmark = pytest.mark.once

# Read by the OpenTelemetry SDK itself.
GOOD_KEY = "kW8tq-0yVnP3zRl_5uJc7XbAe1hGd9sM"  # the shortest that is taken
OF_THE_SDK = {"OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_SERVICE_NAME"}

EXAMPLE = (ROOT / ".env.example").read_text()
DOCUMENTED = dict(re.findall(r"^([A-Z_]+)=(.*)$", EXAMPLE, re.MULTILINE))


def names_read() -> Iterator[str]:
    """First arguments of `read("NAME", …)` and `env.kind("NAME", …)` in the settings."""
    for node in ast.walk(ast.parse((ROOT / "guard" / "settings.py").read_text())):
        match node:
            case ast.Call(func=ast.Name("read") | ast.Attribute(ast.Name("env")), args=[ast.Constant(str(name)), *_]):
                yield name


def test_every_setting_is_documented_and_every_documented_setting_is_read() -> None:
    read = set(names_read())
    assert "SECRET_KEY" in read
    assert "PORT" in read
    assert DOCUMENTED.keys() - read == OF_THE_SDK
    assert read - DOCUMENTED.keys() == set()


def test_every_setting_has_one_line_of_comment() -> None:
    lines = EXAMPLE.splitlines()
    settings = [number for number, line in enumerate(lines) if re.match(r"[A-Z_]+=", line)]
    assert len(settings) == len(DOCUMENTED)
    for number in settings:
        assert re.fullmatch(r"# .+\.", lines[number - 1]) or lines[number].startswith("TENANT_BUDGETS"), lines[number]
        assert not lines[number - 2].startswith("#"), lines[number]


def test_the_example_is_the_default() -> None:
    """Copied as it is, with a key, it starts; so its values parse."""
    environment = {**DOCUMENTED, "SECRET_KEY": GOOD_KEY, "DATABASE_URL": "sqlite://:memory:"}
    checked = manage("check", environment=environment)
    assert checked.returncode == 0, checked.stderr


def test_the_tests_leave_no_setting_to_the_machine() -> None:
    assert set(names_read()) <= environment_of_tests("", "").keys()


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("SECRET_KEY", "", "DEBUG is off"),
        ("SECRET_KEY", "", "secrets.token_urlsafe"),
        ("SECRET_KEY", GOOD_KEY[1:], "at least 32 characters"),
        ("SECRET_KEY", "not-to-be-shown" * 2, "at least 32 characters"),
        ("SECRET_KEY", "abcdefg" * 10, "8 different ones"),
        ("SECRET_KEY", f"django-insecure-not-to-be-shown-{GOOD_KEY}", "others have"),
        ("SECRET_KEY", "insecure-key-for-development-only", "others have"),
        ("DEBUG", "perhaps", "true or false"),
        ("ALLOWED_HOSTS", "https://guard.example", "without scheme"),
        ("ALLOWED_HOSTS", " , ", "at least one"),
        ("PUBLIC_URL", "guard.example", "without a path"),
        ("PUBLIC_URL", "https://guard.example/guard", "without a path"),
        ("PUBLIC_URL", "https://someone:not-to-be-shown@guard.example", "without a path"),
        ("TRUSTED_PROXIES", "proxy.example", "addresses or networks"),
        ("TRUSTED_PROXIES", "10.0.0.1/8", "addresses or networks"),
        ("HSTS_SECONDS", "a year", "whole number"),
        ("PORT", "http", "whole number"),
        ("PORT", "99999", "at most 65535"),
        ("WORKERS", "0", "at least 1"),
        ("RESERVATION_LEASE_SECONDS", "-1", "whole number"),
        ("HOLD_WAIT_SECONDS", "nan", "number of seconds"),
        ("RESERVATION_LEASE_SECONDS", "99999999999999999999", "at most"),
        ("PROVIDER_TIMEOUT_SECONDS", "0", "number of seconds"),
        ("STREAM_IDLE_SECONDS", "1e300", "number of seconds"),
        ("XAI_BASE_URL", "api.x.ai", "http or https"),
        ("XAI_BASE_URL", "http://", "with a host"),
        ("OPENAI_BASE_URL", "https://api.openai.com:port/v1", "with a host"),
        ("XAI_DIALECT", "soap", "responses or chat"),
        ("OPENAI_DIALECT", "Chat", "responses or chat"),
        ("HELICONE_BASE_URL", "https://not-to-be-shown:secret@", "with a host"),
        ("XAI_API_KEY", "not-to-be-shown ü", "printable ASCII"),
        ("METRICS_TOKEN", "not-to-be-shown, twice", "printable ASCII"),
        ("DATABASE_URL", "", "postgres://"),
        ("DATABASE_URL", "nonsense", "postgres://"),
        ("DATABASE_URL", "sqlite://guard.sqlite3", "sqlite:///path"),
        ("DATABASE_URL", "mysql://someone:not-to-be-shown@host/guard", "postgres://"),
        ("DATABASE_URL", "postgres://someone:not-to-be-shown@host:abc/guard", "postgres://"),
        ("DATABASE_URL", "postgres://someone:not-to-be-shown/@host/guard", "postgres://"),
        ("DATABASE_URL", "postgres://someone:not-to-be-shown@host", "postgres://"),
        ("DEFAULT_DAILY_BUDGET", "NaN", "finite"),
        ("DEFAULT_DAILY_BUDGET", "0", "greater than 0"),
        ("TENANT_BUDGETS", '{"acme-corp": {"dailyLimit": "10"}}', "acme-corp: dailyLimit must be a number"),
        ("TENANT_BUDGETS", '{"acme-corp": {"softCap": 0.9, "hardCap": 0.8}}', "acme-corp: softCap 0.9"),
        ("TENANT_BUDGETS", '{"acme-corp": {"dailyLimit": NaN}}', "acme-corp: dailyLimit must be a finite"),
        ("TENANT_BUDGETS", '{"acme corp": {}}', "'acme corp' is no tenant id"),
        ("MAX_BODY_BYTES", "1", "at least 1024"),
        ("ENTRIES_KEPT_DAYS", "92", "at least 93"),
        ("ENTRIES_KEPT_DAYS", "for ever", "whole number"),
        ("ENTRIES_KEPT_DAYS", "36501", "at most 36500"),
        ("EMAIL_URL", "mail.example.com", "an email URL"),
        ("EMAIL_URL", "someone:not-to-be-shown@mail.example.com", "an email URL"),
        ("EMAIL_URL", "smtp://someone:not-to-be-shown@host:abc", "an email URL"),
        ("EMAIL_FROM", "Guard", "an email address"),
        ("TASKS_BACKEND", "no.such.Backend", "No module named"),
        ("TASKS_BACKEND", "django_tasks_db.Nothing", "does not define"),
        ("TASKS_BACKEND", "os.path", "task backend"),
        ("LOG_LEVEL", "LOUD", "DEBUG, INFO"),
        ("CONTENT_KEYS", "not-to-be-shown", "number 1 is none"),
        ("SSO_ISSUER", "login.example", "an OpenID provider"),
        ("SSO_ISSUER", "https://someone:not-to-be-shown@login.example", "an OpenID provider"),
        ("SSO_CLIENT_SECRET", "not-to-be-shown ü", "printable ASCII"),
        ("SSO_NAME", "{name.__class__}", "at most 40"),
        ("SSO_SCOPES", "email", "openid among them"),
        ("SSO_ROLES", "operator", "a JSON object"),
        ("SSO_ROLES", '{"a": "operator", "a": "superuser"}', "a appears twice"),
        ("SSO_ROLES", '{"a": {"superuser": true}}', "a must be a role"),
        ("SSO_ROLES", '{"a": []}', "a must be a role"),
        ("SSO_SESSION_HOURS", "0", "at least 1"),
    ],
)
def test_a_bad_value_stops_the_start_and_is_named(name: str, value: str, why: str) -> None:
    started = manage("serve", environment={name: value})
    assert started.returncode != 0
    (line,) = started.stderr.strip().splitlines()
    assert line.startswith(f"{name}: ")
    assert why in line
    assert "not-to-be-shown" not in started.stderr


def test_a_value_is_taken_as_it_is() -> None:
    """A dollar sign at its start is no reference to another variable, whose name a message would then show."""
    checked = manage("check", environment={"SECRET_KEY": f"${GOOD_KEY}", "XAI_API_KEY": "of-a-file\n"})
    assert checked.returncode == 0, checked.stderr


def test_any_key_will_do_for_development() -> None:
    assert manage("check", environment={"SECRET_KEY": "x", "DEBUG": "true"}).returncode == 0


@pytest.mark.parametrize(
    "url", ["postgres://someone:not-to-be-shown@127.0.0.1:1/guard", "sqlite:////no/such/directory/guard.sqlite3"]
)
def test_a_database_that_does_not_answer_is_named(url: str) -> None:
    for command in ("serve", "migrate"):
        started = manage(command, environment={"DATABASE_URL": url})
        assert started.returncode != 0
        (line,) = started.stderr.strip().splitlines()
        assert line.startswith("DATABASE_URL: the database does not answer: ")
        assert "not-to-be-shown" not in line


@pytest.mark.parametrize(
    ("given", "base_url", "spoken"),
    [
        ("", "https://api.x.ai/v1", "responses"),
        (" ", "https://eu-west-1.example.com/v1", "chat"),
        ("", "https://api.openai.com/v1", "chat"),
        ("chat", "https://api.x.ai/v1", "chat"),
        ("responses", "http://127.0.0.1:1/v1", "responses"),
    ],
)
def test_a_provider_is_spoken_to_as_its_host_wants_where_nothing_is_said(
    given: str, base_url: str, spoken: str
) -> None:
    assert dialect(base_url)(given) == spoken
