"""Settings: every one documented, every documented one read, and a bad value named at the start."""

import ast
import re
from collections.abc import Iterator

import pytest

from tests.support.environment import ROOT, environment_of_tests
from tests.support.server import manage

# Read by the OpenTelemetry SDK itself.
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
    environment = {**DOCUMENTED, "SECRET_KEY": "x" * 60, "DATABASE_URL": "sqlite://:memory:"}
    checked = manage("check", environment=environment)
    assert checked.returncode == 0, checked.stderr


def test_the_tests_leave_no_setting_to_the_machine() -> None:
    assert set(names_read()) <= environment_of_tests("", "").keys()


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("SECRET_KEY", "", "DEBUG is off"),
        ("DEBUG", "perhaps", "true or false"),
        ("PORT", "http", "whole number"),
        ("WORKERS", "0", "at least 1"),
        ("RESERVATION_LEASE_SECONDS", "-1", "whole number"),
        ("HOLD_WAIT_SECONDS", "nan", "number of seconds"),
        ("XAI_BASE_URL", "api.x.ai", "http or https"),
        ("DEFAULT_DAILY_BUDGET", "NaN", "finite"),
        ("DEFAULT_DAILY_BUDGET", "0", "greater than 0"),
        ("TENANT_BUDGETS", '{"acme-corp": {"dailyLimit": "10"}}', "acme-corp: dailyLimit must be a number"),
        ("TENANT_BUDGETS", '{"acme-corp": {"softCap": 0.9, "hardCap": 0.8}}', "acme-corp: softCap 0.9"),
        ("TENANT_BUDGETS", '{"acme-corp": {"dailyLimit": NaN}}', "NaN is not a number"),
        ("MAX_BODY_BYTES", "1", "at least 1024"),
        ("ENTRIES_KEPT_DAYS", "92", "at least 93"),
        ("ENTRIES_KEPT_DAYS", "for ever", "whole number"),
        ("ENTRIES_KEPT_DAYS", "36501", "at most 36500"),
        ("EMAIL_URL", "mail.example.com", "an email URL"),
        ("LOG_LEVEL", "LOUD", "DEBUG, INFO"),
        ("CONTENT_KEYS", "not-to-be-shown", "number 1 is none"),
    ],
)
def test_a_bad_value_stops_the_start_and_is_named(name: str, value: str, why: str) -> None:
    started = manage("serve", environment={name: value})
    assert started.returncode != 0
    last_line = started.stderr.strip().splitlines()[-1]
    assert f"{name}: " in last_line
    assert why in last_line
    assert "not-to-be-shown" not in started.stderr
