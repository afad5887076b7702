"""What the demo provider says, and how many tokens that is. Pure, and the same for the same request."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from zlib import crc32

import orjson

LABEL = "[demo] "
BYTES_PER_TOKEN = 4

TOPICS: dict[str, tuple[str, ...]] = {
    r"refund|money back|return": (
        "I'm sorry the order didn't work out. I have started the refund: it goes back to the card you paid with "
        "and usually arrives within three to five working days. You don't have to send anything back.",
        "I can help with that return. I have emailed you a prepaid label; as soon as the parcel is scanned at the "
        "drop-off point, the refund is released and you get a confirmation.",
    ),
    r"where|ship|deliver|track|parcel|arriv": (
        "Thanks for your patience. Your parcel left our warehouse yesterday and is with the carrier now; the "
        "tracking page shows delivery tomorrow between 9 and 12. Shall I send you a text when it is on the van?",
        "I've checked with the carrier: the parcel was held for a day at the sorting centre and is moving again. "
        "If it isn't with you by Friday, write to us here and we will send a new one free of charge.",
    ),
    r"password|log ?in|sign ?in|locked|account": (
        "That's quickly fixed. I have sent a reset link to the address on your account; it works for 30 minutes. "
        "If it doesn't show up, please look in the spam folder, and tell me if the address has changed.",
    ),
    r"invoice|bill|charge|payment|card": (
        "I looked at your last invoice: the second charge is a pre-authorisation, not a payment, and drops off "
        "your statement within seven days. I have attached the corrected invoice to this conversation.",
    ),
    r"cancel|subscription|plan": (
        "Of course. Your plan stays active until the end of the period you have paid for and won't renew after "
        "that. You can come back at any time: your data is kept for 90 days.",
    ),
}
ANYTHING_ELSE = (
    "Thanks for getting in touch. I've read through your message and passed the details to the right team; you "
    "will hear from us within one working day. Is there anything else I can help you with in the meantime?",
    "Happy to help. Could you tell me your order number and the email address on your account? Then I can look "
    "into this right away.",
    "I understand how annoying that is. I've noted everything in your ticket, so you won't have to explain it "
    "again, and a colleague will follow up today.",
)


def tokens_of(text: str) -> int:
    """Never more than the text's UTF-8 bytes, so a bound by bytes holds."""
    return -(-len(text.encode()) // BYTES_PER_TOKEN)


def prompt_tokens_of(request: Mapping[str, Any]) -> int:
    """Tokens of the messages' text and of the tool schemas; at least 1, as a provider would bill."""
    tokens = sum(tokens_of(text) for message in request["messages"] for text in texts_of(message))
    for schemas in (request.get("tools"), request.get("response_format")):
        if schemas:
            tokens += len(orjson.dumps(schemas)) // BYTES_PER_TOKEN
    return max(1, tokens)


def texts_of(message: Mapping[str, Any]) -> Iterator[str]:
    content = message.get("content")
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        yield from (part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str))
    if calls := message.get("tool_calls"):
        yield orjson.dumps(calls).decode()


def reply_to(message: Mapping[str, Any]) -> str:
    """An answer as a support agent would give it to this message, or to this tool's result."""
    asked = " ".join(texts_of(message))
    if message.get("role") == "tool":
        return f"{LABEL}I've looked that up for you. Our system says: {asked[:200]}. Does that answer your question?"
    replies = next((said for topic, said in TOPICS.items() if re.search(topic, asked, re.IGNORECASE)), ANYTHING_ELSE)
    return LABEL + _choice(replies, asked)


def _choice(replies: Sequence[str], asked: str) -> str:
    return replies[crc32(asked.encode()) % len(replies)]


def cut(text: str, max_tokens: int) -> str:
    """The longest beginning of `text` that is at most `max_tokens` long."""
    return text.encode()[: max_tokens * BYTES_PER_TOKEN].decode(errors="ignore")


def pieces_of(text: str, count: int | None = None) -> list[str]:
    """`text` in words, or in `count` pieces; joined they are `text` again."""
    if count is None:
        return re.findall(r"\s*\S+\s*$|\s*\S+|\s+", text)
    return [text[len(text) * at // count : len(text) * (at + 1) // count] for at in range(count)]


def example_of(schema: Mapping[str, Any], text: str, root: Mapping[str, Any] | None = None) -> Any:
    """The smallest value that this JSON schema allows, with `text` for its strings."""
    root = schema if root is None else root
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    if "$ref" in schema:
        return example_of(_definition(root, schema["$ref"]), text, root)
    for union in ("anyOf", "oneOf", "allOf"):
        if union in schema:
            return example_of(schema[union][0], text, root)
    return _example_of_type(schema, text, root)


def _example_of_type(schema: Mapping[str, Any], text: str, root: Mapping[str, Any]) -> Any:
    kind = schema.get("type", "object" if "properties" in schema else "string")
    match kind[0] if isinstance(kind, list) else kind:
        case "object":
            return {name: example_of(inner, text, root) for name, inner in schema.get("properties", {}).items()}
        case "array":
            return [example_of(schema.get("items", {}), text, root)]
        case "integer" | "number":
            return schema.get("minimum", 1)
        case "boolean":
            return True
        case "null":
            return None
    return text


def _definition(root: Mapping[str, Any], reference: str) -> Any:
    found: Any = root
    for name in reference.removeprefix("#/").split("/") if reference != "#" else ():
        found = found[name]
    return found
