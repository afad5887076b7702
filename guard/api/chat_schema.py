"""The chat endpoints' place in the OpenAPI document; they read their bodies themselves, to be quick.

The schemas say what `guard.chat.request` checks, in `parameters`, `messages` and `asked`; a test sends both what
fits them and what does not.
"""

from typing import Any

from drf_spectacular.extensions import OpenApiViewExtension
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema, extend_schema_view
from rest_framework import serializers

from guard.api.fields import Choice, Instant, StrictSerializer, Text, Usd
from guard.api.schema import WHEN
from guard.api.serializers import BUDGET_STATES, ErrorSerializer, OpenAIErrorSerializer
from guard.chat.request.field_checks import CONTROL_CHARACTERS, MOST_CHARACTERS, MOST_TOKENS
from guard.chat.request.messages import MOST_MESSAGES
from guard.chat.request.parameters import MOST_CHOICES
from spend.models import Route

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
NUMBER: Schema = {"type": "number", "minimum": -(2**63), "maximum": 2**63 - 1}
YES_NO: Schema = {"type": "boolean"}
ANY_OBJECT: Schema = {"type": "object"}
TOKENS: Schema = {"type": "integer", "minimum": 1, "maximum": MOST_TOKENS}
WHOLE_NUMBER: Schema = {"type": "integer", "format": "int64", "minimum": -(2**63), "maximum": 2**63 - 1}
IDENTIFIER: Schema = {"type": "string", "maxLength": MOST_CHARACTERS, "pattern": f"^[^{CONTROL_CHARACTERS}]*$"}


def list_of(items: Schema, **more: Any) -> Schema:
    return {"type": "array", "items": items, **more}


def only(*values: Any) -> Schema:
    return {"type": "boolean" if isinstance(values[0], bool) else "string", "enum": list(values)}


def optional(schema: Schema) -> Schema:
    """Null is as good as absent."""
    null = {"enum": [*schema["enum"], None]} if "enum" in schema else {}
    return {**schema, **null, "nullable": True}


def closed(required: Schema, others: Schema | None = None) -> Schema:
    """An object of these fields and no others."""
    properties = {**{name: optional(schema) for name, schema in (others or {}).items()}, **required}
    names = {"required": list(required)} if required else {}
    return {"type": "object", "properties": properties, **names, "additionalProperties": False}


def with_a(required: Schema) -> Schema:
    """An object of these fields, and any others."""
    return {"type": "object", "properties": required, "required": list(required)}


def one_of(*schemas: Schema) -> Schema:
    return {"anyOf": list(schemas)}


def kind(name: str, field: Schema) -> Schema:
    return with_a({"type": only(name), name: field})


NAMED = with_a({"name": TEXT})
TOOL = one_of(kind("function", NAMED), kind("custom", NAMED))
CACHE_BREAKPOINT = closed({}, {"mode": only("explicit"), "ttl": only("30m")})
PARTS = list_of(
    one_of(
        closed({"type": only("text"), "text": TEXT}, {"prompt_cache_breakpoint": CACHE_BREAKPOINT}),
        closed({"type": only("refusal"), "refusal": TEXT}),
        closed(
            {"type": only("image_url"), "image_url": closed({"url": TEXT}, {"detail": only("auto", "low", "high")})},
            {"prompt_cache_breakpoint": CACHE_BREAKPOINT},
        ),
    )
)
TOOL_CALL = one_of(kind("function", with_a({"name": TEXT, "arguments": TEXT})), kind("custom", with_a({"input": TEXT})))
MESSAGE_FIELDS: Schema = {
    "name": IDENTIFIER,
    "tool_call_id": TEXT,
    "tool_calls": list_of(TOOL_CALL),
    "function_call": with_a({"name": TEXT, "arguments": TEXT}),
    "refusal": TEXT,
    "annotations": list_of(ANY_OBJECT),
    "reasoning_content": TEXT,
    "parsed": {},
    "provider_specific_fields": {},
}
ROLES = only("system", "developer", "user", "assistant", "tool", "function")
MESSAGE = one_of(
    closed({"role": ROLES, "content": one_of(TEXT, PARTS)}, MESSAGE_FIELDS),
    # A call of tools needs no content.
    closed(
        {"role": only("assistant"), "tool_calls": list_of(TOOL_CALL, minItems=1)}, {"content": TEXT, **MESSAGE_FIELDS}
    ),
)
MESSAGES = list_of(MESSAGE, minItems=1, maxItems=MOST_MESSAGES)

COMPLETION_PARAMETERS: Schema = {
    "frequency_penalty": NUMBER,
    "function_call": one_of(TEXT, ANY_OBJECT),
    "functions": list_of(NAMED),
    "logit_bias": {"type": "object", "additionalProperties": NUMBER},
    "logprobs": YES_NO,
    "max_completion_tokens": TOKENS,
    "max_tokens": TOKENS,
    "metadata": {"type": "object", "properties": {"conversation_id": IDENTIFIER}, "additionalProperties": TEXT},
    "modalities": list_of(only("text"), minItems=1, maxItems=1),
    "n": {"type": "integer", "minimum": 1, "maximum": MOST_CHOICES},
    "parallel_tool_calls": YES_NO,
    "presence_penalty": NUMBER,
    "prompt_cache_key": IDENTIFIER,
    "prompt_cache_options": closed({}, {"mode": only("implicit", "explicit"), "ttl": only("30m")}),
    "prompt_cache_retention": only("in_memory", "24h"),
    "reasoning_effort": IDENTIFIER,
    "response_format": one_of(
        with_a({"type": only("text", "json_object")}), with_a({"type": only("json_schema"), "json_schema": ANY_OBJECT})
    ),
    "safety_identifier": IDENTIFIER,
    "seed": WHOLE_NUMBER,
    "service_tier": only("default"),
    "stop": one_of(TEXT, list_of(TEXT)),
    "store": only(False),
    "stream": YES_NO,
    "stream_options": closed({}, {"include_usage": YES_NO, "include_obfuscation": YES_NO}),
    "temperature": NUMBER,
    "tool_choice": one_of(
        TEXT, kind("function", NAMED), kind("custom", NAMED), kind("allowed_tools", with_a({"tools": list_of(TOOL)}))
    ),
    "tools": list_of(TOOL),
    "top_logprobs": WHOLE_NUMBER,
    "top_p": NUMBER,
    "user": {**IDENTIFIER, "description": "The customer."},
    "verbosity": IDENTIFIER,
}
MODEL: Schema = {**IDENTIFIER, "description": "A model on the tenant's route, or auto for the route itself."}
COMPLETION_REQUEST = closed({"model": MODEL, "messages": MESSAGES}, COMPLETION_PARAMETERS)

CHAT_REQUEST = closed(
    {
        "tenantId": {**IDENTIFIER, "minLength": 1, "description": "The tenant whose key it is."},
        "messages": {
            **MESSAGES,
            "items": closed({"role": only("user", "assistant", "system"), "content": TEXT}),
        },
    },
    {
        "maxTokens": TOKENS,
        "model": {**IDENTIFIER, "description": "A model on the tenant's route; default auto, the route itself."},
        "customerId": IDENTIFIER,
        "conversationId": IDENTIFIER,
        "stream": {**YES_NO, "description": "Answer as server-sent events, the last of them the plain answer's body."},
    },
)


class ChatUsageSerializer(StrictSerializer):
    input_tokens = serializers.IntegerField()
    cached_input_tokens = serializers.IntegerField(help_text="Part of inputTokens.")
    output_tokens = serializers.IntegerField()
    reasoning_tokens = serializers.IntegerField(help_text="Part of outputTokens.")


class TightestBudgetSerializer(StrictSerializer):
    """The tightest of the windows that bound the call."""

    state = Choice(choices=BUDGET_STATES)
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
    route = Choice(choices=Route.choices)
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
    "X-Guard-Model": "The model that served.",
    "X-Guard-Requested-Model": "The model that was asked for.",
    "X-Guard-Route": "primary, downgrade or fallback.",
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
