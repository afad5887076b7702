"""What a check lets pass, as OpenAPI says it: each check carries its schema, so that the document is made of them.

Null is as good as absent, so what need not be there may be null.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

Schema = dict[str, Any]
Checked = TypeVar("Checked", bound=Callable[..., None])

LEAST_INTEGER, MOST_INTEGER = -(2**63), 2**63 - 1
TEXT: Schema = {"type": "string"}
NUMBER: Schema = {"type": "number", "minimum": LEAST_INTEGER, "maximum": MOST_INTEGER}
YES_NO: Schema = {"type": "boolean"}
ANY_OBJECT: Schema = {"type": "object"}
WHOLE_NUMBER: Schema = {"type": "integer", "format": "int64", "minimum": LEAST_INTEGER, "maximum": MOST_INTEGER}


def passes(schema: Schema) -> Callable[[Checked], Checked]:
    """Decorates a check with the schema of what it lets pass."""

    def mark(check: Checked) -> Checked:
        vars(check)["schema"] = schema
        return check

    return mark


def schema_of(check: Callable[..., None]) -> Schema:
    """The check's schema; of one that has none that of anything."""
    schema: Schema = getattr(check, "schema", {})
    return schema


def list_of(items: Schema, **more: Any) -> Schema:
    return {"type": "array", "items": items, **more}


def only(*values: Any) -> Schema:
    """One of these, which are of one type: texts, truths, or lists of texts."""
    first = values[0]
    if isinstance(first, list):
        return {**list_of(TEXT), "enum": list(values)}
    return {"type": "boolean" if isinstance(first, bool) else "string", "enum": list(values)}


def optional(schema: Schema) -> Schema:
    null = {"enum": [*schema["enum"], None]} if "enum" in schema else {}
    return {**schema, **null, "nullable": True}


def closed(required: Mapping[str, Schema], others: Mapping[str, Schema] | None = None) -> Schema:
    """An object of these fields and no others."""
    properties = {**{name: optional(schema) for name, schema in (others or {}).items()}, **required}
    names = {"required": list(required)} if required else {}
    return {"type": "object", "properties": properties, **names, "additionalProperties": False}


def with_a(required: Mapping[str, Schema]) -> Schema:
    """An object of these fields, and any others."""
    return {"type": "object", "properties": dict(required), "required": list(required)}


def one_of(*schemas: Schema) -> Schema:
    return {"anyOf": [choice for schema in schemas for choice in schema.get("anyOf", [schema])]}


def with_property(schema: Schema, name: str, inner: Schema, *, required: bool = False) -> Schema:
    """The object, or each of several, with a further property."""
    if "anyOf" in schema:
        return one_of(*(with_property(each, name, inner, required=required) for each in schema["anyOf"]))
    names = [*([name] if required else []), *(each for each in schema.get("required", []) if each != name)]
    properties = {**schema.get("properties", {}), name: inner if required else optional(inner)}
    return {**schema, "properties": properties, **({"required": names} if names else {})}


def kind(name: str, field: Schema) -> Schema:
    """An object of the type `name`, with a field of that name."""
    return with_a({"type": only(name), name: field})
