"""Checks of the values in a chat request: each raises InvalidRequest, naming the field, or returns nothing.

Null is as good as absent, so no check ever sees it (`check_fields`). Each carries the schema of what it lets pass
(`guard.chat.request.schemas`).
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from guard.chat.request import schemas
from guard.chat.request.schemas import Schema, passes, schema_of
from guard.http.errors import refuse
from spend.names import MOST_TAG_CHARACTERS, MOST_TAGS, tags_of, tidy

Check = Callable[[Any, str], None]
"""Takes a value and the dotted path of its field."""

MOST_CHARACTERS = 255
MOST_ITEMS = 2048
MOST_TOOLS = 512
MOST_TOKENS = 2**31 - 1
CONTROL_CHARACTERS = r"\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069"
"""Those that break lines or turn the direction of writing are among them: they forge what pages and logs say."""
WHITESPACE = r"\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
"""What `tidy` takes off either end of an id."""
CONTROL_CHARACTER = re.compile(f"[{CONTROL_CHARACTERS}]")
NOT_BOUNDED = "is not supported: its cost cannot be bounded."


def check_fields(value: Any, fields: Mapping[str, Check], param: str = "") -> None:
    """That `value` is an object of these fields and no others, each as its check wants it; null is absent."""
    if not isinstance(value, Mapping):
        raise refuse(param or "body", "must be a JSON object.")
    for name, inner in value.items():
        if inner is None:
            continue
        path = f"{param}.{name}" if param else name
        if (check := fields.get(name)) is None:
            raise refuse(path, "is not known here, so its cost cannot be bounded.")
        check(inner, path)


def an_object(fields: Mapping[str, Check], *required: str) -> Check:
    """An object of these fields and no others, because another could change the price."""
    all_of = {name: schema_of(inner) for name, inner in fields.items()}
    others = {name: schema for name, schema in all_of.items() if name not in required}

    @passes(schemas.closed({name: all_of[name] for name in required}, others))
    def check(value: Any, param: str) -> None:
        check_fields(value, fields, param)
        for name in required:
            if value.get(name) is None:
                raise refuse(f"{param}.{name}", "is required.")

    return check


@passes(schemas.ANY_OBJECT)
def any_object(value: Any, param: str) -> None:
    if not isinstance(value, Mapping):
        raise refuse(param, "must be an object.")


def with_a(field: str, of: Check) -> Check:
    """An object that has this field, and any others: all of its text is counted."""

    @passes(schemas.with_a({field: schema_of(of)}))
    def check(value: Any, param: str) -> None:
        any_object(value, param)
        of(value.get(field), f"{param}.{field}")

    return check


def a_list(of: Check, most: int = MOST_ITEMS, *, place: str = ".{}") -> Check:
    """`place` is how a position is named: OpenAI's Responses API says `tools[0]`."""

    @passes(schemas.list_of(schema_of(of), maxItems=most))
    def check(value: Any, param: str) -> None:
        if not isinstance(value, list):
            raise refuse(param, "must be a list.")
        if len(value) > most:
            raise refuse(param, f"must have at most {most:,} items.")
        for position, inner in enumerate(value):
            of(inner, param + place.format(position))

    return check


def either(text_check: Check, otherwise: Check) -> Check:
    """A string, or something else."""

    @passes(schemas.one_of(schema_of(text_check), schema_of(otherwise)))
    def check(value: Any, param: str) -> None:
        (text_check if isinstance(value, str) else otherwise)(value, param)

    return check


def _of_type(name: str, schema: Schema) -> Schema:
    return schemas.with_property(schema, "type", schemas.only(name), required=True)


def one_of_kinds(kinds: Mapping[str, Check], else_why: str) -> Check:
    """An object whose `type` names which check it has to pass."""

    @passes(schemas.one_of(*(_of_type(name, schema_of(check)) for name, check in kinds.items())))
    def check(value: Any, param: str) -> None:
        kind = value.get("type") if isinstance(value, Mapping) else None
        if not isinstance(kind, str) or kind not in kinds:
            raise refuse(f"{param}.type", else_why)
        kinds[kind](value, param)

    return check


def anything(_value: Any, _param: str) -> None:
    """Checked elsewhere, or by the provider; its cost is in the prompt or in the answer, which the hold bounds."""


def refused(_value: Any, param: str) -> None:
    raise refuse(param, NOT_BOUNDED)


@passes(schemas.NUMBER)
def number(value: Any, param: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise refuse(param, "must be a number.")


@passes(schemas.WHOLE_NUMBER)
def whole_number(value: Any, param: str) -> None:
    if type(value) is not int:
        raise refuse(param, "must be a whole number.")


def between(least: int, most: int, what: str) -> Check:
    @passes({"type": "integer", "minimum": least, "maximum": most})
    def check(value: Any, param: str) -> None:
        if type(value) is not int or not least <= value <= most:
            raise refuse(param, f"must be a whole number {what} from {least:,} to {most:,}.")

    return check


tokens = between(1, MOST_TOKENS, "of tokens")


@passes(schemas.YES_NO)
def true_or_false(value: Any, param: str) -> None:
    if not isinstance(value, bool):
        raise refuse(param, "must be true or false.")


@passes(schemas.TEXT)
def text(value: Any, param: str) -> None:
    if not isinstance(value, str):
        raise refuse(param, "must be a string.")


@passes({"type": "string", "maxLength": MOST_CHARACTERS, "pattern": f"^[^{CONTROL_CHARACTERS}]*$"})
def identifier(value: Any, param: str) -> None:
    """A short string that can stand in the ledger, in logs and in headers."""
    text(value, param)
    if len(value) > MOST_CHARACTERS:
        raise refuse(param, f"must have at most {MOST_CHARACTERS} characters.")
    if CONTROL_CHARACTER.search(value):
        raise refuse(param, "must not contain control characters.")


@passes(
    {
        "type": "string",
        "maxLength": MOST_CHARACTERS,
        "pattern": f"^[{WHITESPACE}]*[^{CONTROL_CHARACTERS}]*[{WHITESPACE}]*$",
    }
)
def counted_id(value: Any, param: str) -> None:
    """A customer's or conversation's id, in the form in which it is counted."""
    text(value, param)
    identifier(tidy(value), param)


@passes({"type": "string", "pattern": f"^[{WHITESPACE}]*[^{CONTROL_CHARACTERS}]*[{WHITESPACE}]*$"})
def tags(value: Any, param: str) -> None:
    """Tags, separated by commas, in the form in which they are counted."""
    text(value, param)
    given = tags_of(value)
    if len(given) > MOST_TAGS:
        raise refuse(param, f"must have at most {MOST_TAGS} tags.")
    for tag in given:
        if len(tag) > MOST_TAG_CHARACTERS or CONTROL_CHARACTER.search(tag):
            raise refuse(
                param, f"must have tags of at most {MOST_TAG_CHARACTERS} characters, none a control character."
            )


def only(*allowed: Any) -> Check:
    """Of a field that can change the price, the values that do not."""

    @passes(schemas.only(*allowed))
    def check(value: Any, param: str) -> None:
        if not any(type(value) is type(one) and value == one for one in allowed):
            named = " or ".join(str(one).lower() if isinstance(one, bool) else repr(one) for one in allowed)
            raise refuse(param, f"only {named} can be priced here.")

    return check
