"""Reading a chat request, in either shape, into what the guard needs of it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from guard.chat.request.field_checks import (
    Check,
    anything,
    check_fields,
    counted_id,
    identifier,
    tags,
    tokens,
    true_or_false,
)
from guard.chat.request.messages import as_sent, check_messages, count_images, normalized_history, without_images
from guard.chat.request.parameters import IN_THE_PROMPT, SENT, check_parameters, without_hints
from guard.http.errors import refuse
from guard.policy.adapt import needs_of
from guard.policy.routing import Ask
from spend.models import AUTO
from spend.names import tags_of, tidy
from spend.pricing.cost import bound_input_tokens


@dataclass(frozen=True, slots=True)
class CallRequest:
    """A call as its caller asked for it. `body` is the provider's request without its model and maximum."""

    ask: Ask
    body: dict[str, Any]
    customer: str
    conversation: str
    tags: tuple[str, ...] = ()
    tenant_id: str | None = None
    stream: bool = False
    show_usage: bool = False


def read_completion(body: Any) -> CallRequest:
    """The OpenAI shape. Raises InvalidRequest naming the field."""
    check_parameters(body)
    if body.get("model") is None:
        raise refuse("model", "is required: a model's name, or 'auto' for the tenant's route.")
    metadata = body.get("metadata") or {}
    return _call_request(
        body,
        model=body["model"],
        max_tokens=body.get("max_completion_tokens") or body.get("max_tokens"),
        conversation=metadata.get("conversation_id"),
        given_tags=metadata.get("tags"),
    )


CUSTOMER = ("user", "safety_identifier")
"""Which parameters name the customer; the first that says something does."""

CHAT_FIELDS: dict[str, Check] = {
    "tenantId": identifier,
    "messages": anything,
    "maxTokens": tokens,
    "model": identifier,
    "customerId": counted_id,
    "conversationId": counted_id,
    "tags": tags,
    "stream": true_or_false,
}


def read_chat(body: Any) -> CallRequest:
    """The guard's own shape, in camelCase. Raises InvalidRequest naming the field."""
    check_fields(body, CHAT_FIELDS)
    if not body.get("tenantId"):
        raise refuse("tenantId", "is required.")
    return _call_request(
        {"messages": body.get("messages"), "user": body.get("customerId"), "stream": body.get("stream")},
        model=body.get("model") or AUTO,
        max_tokens=body.get("maxTokens"),
        conversation=body.get("conversationId"),
        given_tags=body.get("tags"),
        tenant_id=body["tenantId"],
    )


def _call_request(
    body: Mapping[str, Any],
    *,
    model: str,
    max_tokens: int | None,
    conversation: str | None,
    given_tags: str | None,
    tenant_id: str | None = None,
) -> CallRequest:
    messages: Any = normalized_history(body.get("messages"))
    check_messages(messages)
    messages = as_sent(messages)
    names = {name: tidy(body.get(name)) or None for name in CUSTOMER}
    sent = {name: value for name, value in {**body, **names}.items() if name in SENT and value is not None}
    if "tools" in sent:
        sent["tools"] = without_hints(sent["tools"])
    options = body.get("stream_options") or {}
    if body.get("stream") and (obfuscation := options.get("include_obfuscation")) is not None:
        sent["stream_options"] = {"include_obfuscation": obfuscation}
    images = count_images(messages)
    schemas = [sent[name] for name in IN_THE_PROMPT if name in sent]
    return CallRequest(
        ask=Ask(
            model=model,
            input_tokens=bound_input_tokens(without_images(messages) if images else messages, schemas),
            max_tokens=max_tokens,
            choices=body.get("n") or 1,
            images=images,
            needs=needs_of(sent, images),
            effort=sent.get("reasoning_effort", ""),
            has_begun=any(message.get("role") == "assistant" for message in messages),
        ),
        body={"messages": messages, **sent},
        customer=next(filter(None, names.values()), ""),
        conversation=tidy(conversation),
        tags=tags_of(given_tags),
        tenant_id=tenant_id,
        stream=bool(body.get("stream")),
        show_usage=bool(options.get("include_usage")),
    )


AnyRequest = TypeVar("AnyRequest", bound=CallRequest)
CUSTOMER_HEADER, CONVERSATION_HEADER = "X-Guard-Customer", "X-Guard-Conversation"
TAGS_HEADER = "X-Guard-Tags"


def with_headers(asked: AnyRequest, headers: Mapping[str, str]) -> AnyRequest:
    """Customer, conversation and tags named by headers, for clients that can't set them in the body.

    Raises InvalidRequest where a header is no id, or its body says otherwise.
    """
    customer = _agreed(asked.customer, CUSTOMER_HEADER, headers)
    conversation = _agreed(asked.conversation, CONVERSATION_HEADER, headers)
    named = _with_header(asked.tags, headers)
    if (customer, conversation, named) == (asked.customer, asked.conversation, asked.tags):
        return asked
    return replace(asked, customer=customer, conversation=conversation, tags=named)


def _with_header(in_body: tuple[str, ...], headers: Mapping[str, str]) -> tuple[str, ...]:
    """The tags of the body and those of the header: a gateway may add its own to the agent's."""
    if not (given := headers.get(TAGS_HEADER)):
        return in_body
    both = ",".join([*in_body, _text_of(given, TAGS_HEADER)])
    tags(both, TAGS_HEADER)
    return tags_of(both)


def _text_of(given: str, header: str) -> str:
    try:  # WSGI's habit, kept by ASGI: bytes as Latin-1
        return given.encode("latin-1").decode()
    except UnicodeError:
        raise refuse(header, "must be UTF-8.") from None


def _agreed(in_body: str, header: str, headers: Mapping[str, str]) -> str:
    if not (given := headers.get(header)):
        return in_body
    given = _text_of(given, header)
    counted_id(given, header)
    in_header = tidy(given)
    if in_body and in_header and in_body != in_header:
        raise refuse(header, f"names another than the body does, which is {in_body!r}.")
    return in_body or in_header
