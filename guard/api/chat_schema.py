"""The chat endpoints' place in the OpenAPI document; they read their bodies themselves, to be quick.

The schemas are those of the checks in `guard.chat.request`; a test sends both what fits them and what does not.
"""

from typing import Any

from drf_spectacular.extensions import OpenApiViewExtension
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema, extend_schema_view
from rest_framework import serializers

from guard.api.fields import Choice, Instant, StrictSerializer, Text, Usd
from guard.api.schema import WHEN
from guard.api.serializers import BUDGET_STATES, ErrorSerializer, OpenAIErrorSerializer
from guard.chat.handoff import HANDOFF_ROUTE
from guard.chat.request import messages, parameters
from guard.chat.request.field_checks import identifier, tokens
from guard.chat.request.messages import breakpoint_in_cache
from guard.chat.request.reader import CHAT_FIELDS
from guard.chat.request.schemas import (
    ANY_OBJECT,
    TEXT,
    YES_NO,
    Schema,
    closed,
    list_of,
    one_of,
    only,
    optional,
    schema_of,
    with_a,
)
from spend.models import Route

TOKENS: Schema = schema_of(tokens)
IDENTIFIER: Schema = schema_of(identifier)
CACHE_BREAKPOINT: Schema = schema_of(breakpoint_in_cache)

MESSAGE_FIELDS: Schema = {
    name: schema_of(check)
    for name, check in messages.MESSAGE_FIELDS.items()
    if name not in {"role", "content", "audio"}
}
MESSAGE = one_of(
    closed(
        {"role": only(*sorted(messages.ROLES)), "content": one_of(TEXT, schema_of(messages.content_parts))},
        MESSAGE_FIELDS,
    ),
    # A call of tools needs no content.
    closed(
        {"role": only("assistant"), "tool_calls": {**MESSAGE_FIELDS["tool_calls"], "minItems": 1}},
        {"content": TEXT, **MESSAGE_FIELDS},
    ),
)
MESSAGES = list_of(MESSAGE, minItems=1, maxItems=messages.MOST_MESSAGES)
MODEL: Schema = {**IDENTIFIER, "description": "A model on the tenant's route, or auto for the route itself."}
DESCRIPTIONS = {
    "user": "The customer.",
    **dict.fromkeys(parameters.DROPPED, "Left out of what is sent."),
}
COMPLETION_PARAMETERS: Schema = {
    name: {**schema_of(check), **({"description": DESCRIPTIONS[name]} if name in DESCRIPTIONS else {})}
    for name, check in sorted(parameters.TABLE.items())
    if name not in {"model", "messages", *parameters.REFUSED}
}
COMPLETION_REQUEST = closed({"model": MODEL, "messages": MESSAGES}, COMPLETION_PARAMETERS)

CHAT_PARAMETERS: Schema = {
    **{name: schema_of(check) for name, check in CHAT_FIELDS.items() if name not in {"tenantId", "messages"}},
    "model": {**IDENTIFIER, "description": "A model on the tenant's route; default auto, the route itself."},
    "stream": {**YES_NO, "description": "Answer as server-sent events, the last of them the plain answer's body."},
}
CHAT_REQUEST = closed(
    {
        "tenantId": {**IDENTIFIER, "minLength": 1, "description": "The tenant whose key it is."},
        "messages": {
            **MESSAGES,
            "items": closed({"role": only("user", "assistant", "system"), "content": TEXT}),
        },
    },
    CHAT_PARAMETERS,
)


class ChatUsageSerializer(StrictSerializer):
    input_tokens = serializers.IntegerField()
    cached_input_tokens = serializers.IntegerField(help_text="Part of inputTokens.")
    output_tokens = serializers.IntegerField()
    reasoning_tokens = serializers.IntegerField(help_text="Part of outputTokens.")


class TightestBudgetSerializer(StrictSerializer):
    """The tightest of the windows that bound the call."""

    state = Choice(choices=BUDGET_STATES)
    step = serializers.IntegerField(required=False, help_text="On which step of its ladder, where it has one.")
    steps = serializers.IntegerField(required=False, help_text="How many steps its ladder has, where it has one.")
    limit_usd = Usd(required=False)
    spent_usd = Usd(required=False)
    remaining_usd = Usd(required=False)
    resets_at = Instant(allow_null=True)


class ChatAnswerSerializer(StrictSerializer):
    """Dollar figures are left out for a tenant that hides money."""

    id = Text()
    tenant_id = Text()
    content = Text()
    model = Text(help_text="The model that served.")
    requested_model = Text()
    route = Choice(choices=[*Route.choices, (HANDOFF_ROUTE, "handed off")])
    finish_reason = Text(help_text="Empty where the provider does not say.")
    usage = ChatUsageSerializer()
    cost_usd = Usd(required=False)
    budget = TightestBudgetSerializer()


COMPLETION_CHOICE = with_a(
    {
        "index": {"type": "integer"},
        "message": {
            "type": "object",
            "properties": {
                "role": TEXT,
                "content": optional(TEXT),
                "refusal": optional(TEXT),
                "tool_calls": optional(list_of(ANY_OBJECT)),
            },
        },
        "finish_reason": optional(TEXT),
    }
)
COMPLETION_ANSWER = {
    **with_a({"model": {**TEXT, "description": "The model that served."}, "choices": list_of(COMPLETION_CHOICE)}),
    "description": "The provider's chat completion, with whatever else it says.",
}
COMPLETION_ANSWER["properties"] |= {
    "id": TEXT,
    "object": TEXT,
    "created": {"type": "integer"},
    "usage": optional(ANY_OBJECT),
}

MEANINGS = {
    **{status: WHEN[status] for status in (400, 401, 403, 413, 415)},
    409: "A call with this Idempotency-Key is still in flight.",
    422: "This Idempotency-Key was used with another body.",
    429: "The budget is spent (budget_exceeded) or held (budget_held), or calls come too fast (rate_limited).",
    500: "A defect of ours.",
    503: "The ledger cannot be written (ledger_unavailable), or no model answered (all_models_failed).",
}
ANSWER_HEADERS = {
    "X-Request-Id": "The call's id, in the ledger and in logs; a replay's is the first call's.",
    "X-Guard-Model": "The model that served; absent for a hand-off.",
    "X-Guard-Requested-Model": "The model that was asked for.",
    "X-Guard-Route": "primary, downgrade or fallback; handoff for the tenant's own words in place of an answer.",
    "X-Guard-Max-Tokens": "The maximum of output tokens that was allowed; only where it was lowered.",
    "X-Guard-Adapted": "Names of the parameters left out or mapped for the model that served; absent if none.",
    "X-Guard-Cost-Usd": "What the call cost; not on streams, and not for a tenant that hides money.",
    "X-Guard-Budget-State": "The tightest budget's state: active, warned, degraded or stopped.",
    "X-Guard-Budget-Limit-Usd": "Its limit; not for a tenant that hides money.",
    "X-Guard-Budget-Remaining-Usd": "What is left of it; not for a tenant that hides money.",
    "X-Guard-Budget-Reset": "Seconds until it starts anew; not for a budget in total.",
    "Idempotent-Replayed": "true where the answer is that of an earlier call under the same Idempotency-Key.",
}


def described(operation_id: str, summary: str, request: Schema, answer: Any, error: Any) -> dict[str, Any]:
    events = OpenApiResponse(with_a({"data": TEXT}), "With stream: server-sent events, ended by `data: [DONE]`.")
    given = [
        OpenApiParameter(
            "Idempotency-Key",
            IDENTIFIER,
            OpenApiParameter.HEADER,
            description="The same key and body is one call, for 24 hours.",
        ),
        OpenApiParameter("X-Request-Id", TEXT, OpenApiParameter.HEADER, description="Kept where it is a sane token."),
    ]
    told = [
        OpenApiParameter(name, TEXT, OpenApiParameter.HEADER, description=meaning, response=[200])
        for name, meaning in ANSWER_HEADERS.items()
    ]
    return {
        "operation_id": operation_id,
        "summary": summary,
        "tags": ["agents"],
        "auth": [{"apiKey": []}],
        "parameters": [*given, *told],
        "request": {"application/json": request},
        "responses": {
            (200, "application/json"): answer,
            (200, "text/event-stream"): events,
            **{status: OpenApiResponse(error, meaning) for status, meaning in MEANINGS.items()},
        },
    }


CHAT_SCHEMA = described("chat", "A guarded call", CHAT_REQUEST, ChatAnswerSerializer, ErrorSerializer)
COMPLETION_SCHEMA = described(
    "createChatCompletion",
    "A guarded call in the OpenAI shape",
    COMPLETION_REQUEST,
    COMPLETION_ANSWER,
    OpenAIErrorSerializer,
)


class ChatEndpointSchema(OpenApiViewExtension):  # type: ignore[no-untyped-call]
    target_class = "guard.chat.endpoints.ChatEndpoint"

    def view_replacement(self) -> type:
        return documented(self.target_class, CHAT_SCHEMA)


class CompletionsEndpointSchema(OpenApiViewExtension):  # type: ignore[no-untyped-call]
    target_class = "guard.chat.endpoints.CompletionsEndpoint"

    def view_replacement(self) -> type:
        return documented(self.target_class, COMPLETION_SCHEMA)


def documented(view: Any, schema: dict[str, Any]) -> type:
    """A view of its own for the document, so that the one that serves does not know of it."""
    return extend_schema_view(post=extend_schema(**schema))(type(view.__name__, (view,), {}))
