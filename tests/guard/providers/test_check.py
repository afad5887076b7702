"""`check_providers`: what an operator reads of an address and a key, from a real server that answers in each way."""

import json
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from tests.factories import CatalogueModelFactory
from tests.support.provider import Provider
from tests.support.sink import http_sink

pytestmark = pytest.mark.django_db

REFUSED: list[tuple[int, Any, str]] = [
    (200, "<html>Welcome</html>", "no list of models"),
    (200, {"models": []}, "no list of models"),
    (302, "", "check the address"),
    (400, {"error": "Incorrect API key provided"}, "refuses the key"),
    (400, {"error": "what?"}, "check the address"),
    (401, {"error": {"message": "no"}}, "refuses the key"),
    (403, {"error": {"message": "no"}}, "check its rights"),
    (404, "", "ends in /v1"),
    (429, {"error": {"message": "no"}}, "throttling"),
    (500, "", "try again later"),
]


@pytest.fixture(autouse=True)
def one_provider(settings: Any) -> None:
    settings.XAI_API_KEY, settings.OPENAI_API_KEY = "", "a-secret-key"


def check(capsys: pytest.CaptureFixture[str]) -> str:
    call_command("check_providers")
    return capsys.readouterr().out


def test_a_provider_that_works_and_what_it_does_not_list(
    provider: Provider, capsys: pytest.CaptureFixture[str]
) -> None:
    CatalogueModelFactory.create(id="mine", provider="openai", upstream_name="of-yesterday")
    CatalogueModelFactory.create(id="off", provider="openai", upstream_name="off-yesterday", is_enabled=False)
    said = check(capsys)
    assert "OpenAI at" in said
    assert "works, and lists" in said
    assert "mine is enabled here, and of-yesterday is not in its list." in said
    assert "off-yesterday" not in said
    assert "xAI: XAI_API_KEY is not set" in said


@pytest.mark.parametrize(("status", "body", "words"), REFUSED)
def test_what_is_wrong_is_said_in_plain_words(
    settings: Any, capsys: pytest.CaptureFixture[str], status: int, body: Any, words: str
) -> None:
    with http_sink() as sink:
        is_page = isinstance(body, str)
        sink.status, sink.answer = status, (body if is_page else json.dumps(body)).encode()
        kind = "text/html" if is_page else "application/json"
        sink.headers = {"Content-Type": kind, "Location": "/v1/models", "x-should-retry": "false"}
        settings.OPENAI_BASE_URL = f"{sink.url}/v1"
        with pytest.raises(CommandError, match=r"Not working: OpenAI\."):
            check(capsys)
    said = capsys.readouterr().out
    assert words in said
    assert "a-secret-key" not in said


def test_an_address_where_nobody_listens(settings: Any, capsys: pytest.CaptureFixture[str]) -> None:
    settings.OPENAI_BASE_URL = "http://127.0.0.1:1/v1"
    with pytest.raises(CommandError):
        check(capsys)
    assert "can't be reached" in capsys.readouterr().out


def test_without_keys_there_is_nothing_to_check(settings: Any) -> None:
    settings.OPENAI_API_KEY = ""
    with pytest.raises(CommandError, match="OPENAI_API_KEY"):
        call_command("check_providers")
