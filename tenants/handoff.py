"""A tenant's own words to its customers when a budget is spent: what may stand in them, and how they are told. Pure."""

import re
from collections.abc import Mapping
from datetime import datetime
from zoneinfo import ZoneInfo

from django.core.exceptions import ValidationError
from django.core.validators import MaxLengthValidator
from django.utils import translation
from django.utils.formats import date_format
from django.utils.translation.trans_real import parse_accept_lang_header

RESETS_AT, LINK = "{resets_at}", "{link}"
PLACEHOLDERS = frozenset({RESETS_AT, LINK})
MOST_WORDS = 2_000
"""Characters. Django checks a text's longest length in its forms only."""
LANGUAGE = r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*\Z"
BRACED = re.compile(r"\{[^{}]*\}?|\}")
SENTENCE = re.compile(r".+?(?:[.!?](?=\s|\Z)|[。！？\n]|\Z)", re.DOTALL)
"""With what ends it. A Latin full stop ends one before a blank only: it may stand in a host's name or a number."""


def validate_words(text: str) -> None:
    """Raises ValidationError for more than MOST_WORDS, and naming what stands in braces and is no placeholder."""
    MaxLengthValidator(MOST_WORDS)(text)
    if unknown := [found for found in BRACED.findall(text) if found not in PLACEHOLDERS]:
        raise ValidationError(f"{unknown[0]} is no placeholder; there are {RESETS_AT} and {LINK}.")


def chosen_language(accept_language: str, languages: Mapping[str, str], default: str) -> str:
    """Of the `languages` that there are words in, the one that an Accept-Language header likes best.

    Its own code first ("de-AT"), then the language that it is of ("de"). Where it likes none, the default.
    """
    known = {language.lower(): language for language in (*languages, default)}
    for wanted, liking in parse_accept_lang_header(accept_language.lower()):
        if liking and (found := known.get(wanted) or known.get(wanted.split("-")[0])):
            return found
    return default


def filled(text: str, language: str, resets_at: datetime | None, zone: ZoneInfo, link: str) -> str:
    """The words with their placeholders filled: the instant as `language` writes it, in the tenant's `zone`.

    A sentence that names what there is not (a budget in total never starts anew) is left out.
    """
    values = {RESETS_AT: resets_at and moment(resets_at.astimezone(zone), language), LINK: link}
    told = text
    for placeholder, value in values.items():
        told = told.replace(placeholder, value) if value else _without(placeholder, told)
    return told.strip() or text.replace(RESETS_AT, "").replace(LINK, link).strip()


def _without(placeholder: str, text: str) -> str:
    return "".join(sentence for sentence in SENTENCE.findall(text) if placeholder not in sentence)


def moment(at: datetime, language: str) -> str:
    """Day, time and zone; in English where the language's own way is not known."""
    if language.split("-", maxsplit=1)[0].lower() == "en" or not translation.check_for_language(language):
        return f"{at:%-d %B %Y, %H:%M %Z}"
    with translation.override(language):
        return f"{date_format(at, 'DATETIME_FORMAT')} {at:%Z}"
