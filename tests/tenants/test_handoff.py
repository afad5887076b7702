"""A tenant's words to its customers: what may stand in them, which are told, and how."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from django.core.exceptions import ValidationError

from tenants.handoff import MOST_WORDS, chosen_language, filled, validate_words
from tenants.models import HandoffTranslation, HardStop, Tenant
from tests.factories import TenantFactory

pytestmark = pytest.mark.pure

MIDNIGHT = datetime(2026, 12, 1, 23, tzinfo=UTC)
BERLIN = ZoneInfo("Europe/Berlin")
WORDS = "I cannot help any further today. A colleague answers at {link}. I am back on {resets_at}!"
TOO_LONG = "x" * (MOST_WORDS + 1)
LINK = "https://help.example.com"


@pytest.mark.parametrize("text", ["", "Sorry.", WORDS, "{link}{link}", "x" * MOST_WORDS])
def test_words_that_are_well(text: str) -> None:
    validate_words(text)


@pytest.mark.parametrize("found", ["{name}", "{}", "{ link }", "{LINK}", "{resets_at", "}", "{resets_at:%H}"])
def test_what_is_no_placeholder_is_named(found: str) -> None:
    with pytest.raises(ValidationError, match="is no placeholder") as refused:
        validate_words(f"Back {found}")
    assert found in refused.value.message


@pytest.mark.parametrize("row", [Tenant(id="acme", handoff_words=TOO_LONG), HandoffTranslation(words=TOO_LONG)])
def test_words_that_are_too_long_are_refused_wherever_they_come_from(row: Tenant | HandoffTranslation) -> None:
    with pytest.raises(ValidationError, match="at most 2000 characters"):
        row.clean_fields(exclude={"tenant", "language"})


@pytest.mark.parametrize(
    ("accepted", "chosen"),
    [
        ("", "en"),
        ("de", "de"),
        ("de-AT,de;q=0.9,en;q=0.8", "de"),
        ("pt-BR", "pt-BR"),
        ("pt-PT", "en"),
        ("fr;q=0.9, es;q=0.8", "es"),
        ("en-US,de;q=0.5", "en"),
        ("en;q=0.1, es", "es"),
        ("*", "en"),
        ("de;q=0", "en"),
        ("\x00;;q=,," * 500, "en"),
    ],
)
def test_the_language_that_is_liked_best(accepted: str, chosen: str) -> None:
    assert chosen_language(accepted, {"de": "", "es": "", "pt-BR": ""}, "en") == chosen


def test_the_instant_is_the_tenants_and_written_as_the_language_writes_it() -> None:
    assert filled(WORDS, "en", MIDNIGHT, BERLIN, LINK) == (
        f"I cannot help any further today. A colleague answers at {LINK}. I am back on 2 December 2026, 00:00 CET!"
    )
    assert filled("Ab {resets_at}.", "de-AT", MIDNIGHT, BERLIN, LINK) == "Ab 2. Dezember 2026 00:00 CET."
    assert filled("{resets_at}", "tlh", MIDNIGHT, BERLIN, "") == "2 December 2026, 00:00 CET"


def test_a_sentence_that_names_what_there_is_not_is_left_out() -> None:
    assert filled(WORDS, "en", None, BERLIN, LINK) == (
        f"I cannot help any further today. A colleague answers at {LINK}."
    )
    assert filled(WORDS, "en", None, BERLIN, "") == "I cannot help any further today."
    assert filled("Back on {resets_at}", "en", None, BERLIN, "") == "Back on"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("Sorry. Until {resets_at} see shop.example/help.", "Sorry."),
        ("Write to help@shop.example, I am back on {resets_at}.", "Write to help@shop.example, I am back on ."),
        ("Write to help@shop.example. I am back on {resets_at}.", "Write to help@shop.example."),
        ("2.5 is out! Back {resets_at}?! See shop.example/a?b=c.", "2.5 is out! See shop.example/a?b=c."),
        ("対応できません。{resets_at}に再開します。お待ちください。", "対応できません。お待ちください。"),
        ("One line\nback on {resets_at}\nand another", "One line\nand another"),
    ],
)
def test_a_sentence_ends_where_its_full_stop_is_no_part_of_a_name(words: str, told: str) -> None:
    assert filled(words, "en", None, BERLIN, "") == told


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"handoff_words": "  "}, "handoff_words"),
        ({"handoff_words": "See {link}."}, "handoff_link"),
    ],
)
def test_a_tenant_that_hands_off_has_words_and_the_link_they_name(wrong: dict[str, str], field: str) -> None:
    with pytest.raises(ValidationError) as refused:
        TenantFactory.build(hard_stop=HardStop.HAND_OFF, **wrong).clean()
    assert list(refused.value.message_dict) == [field]
