"""The place of `POST /v1/responses` in the OpenAPI document; it says what `guard.responses` checks."""

from typing import Any

from drf_spectacular.extensions import OpenApiViewExtension

from guard.api.chat_schema import (
    CACHE_BREAKPOINT,
    COMPLETION_PARAMETERS,
    IDENTIFIER,
    MODEL,
    TOKENS,
    described,
    documented,
)
from guard.api.serializers import OpenAIErrorSerializer
from guard.chat.request.messages import MOST_MESSAGES
from guard.chat.request.schemas import (
    ANY_OBJECT,
    NUMBER,
    TEXT,
    WHOLE_NUMBER,
    YES_NO,
    Schema,
    closed,
    kind,
    list_of,
    one_of,
    only,
    optional,
    with_a,
)

INPUT_PARTS = list_of(
    one_of(
        closed({"type": only("input_text"), "text": TEXT}, {"prompt_cache_breakpoint": CACHE_BREAKPOINT}),
        closed(
            {"type": only("input_image"), "image_url": TEXT},
            {"detail": only("auto", "low", "high"), "prompt_cache_breakpoint": CACHE_BREAKPOINT},
        ),
    )
)
OUTPUT_PARTS = list_of(
    one_of(with_a({"type": only("output_text"), "text": TEXT}), with_a({"type": only("refusal"), "refusal": TEXT}))
)
MESSAGE = closed(
    {"role": only("user", "system", "developer"), "content": one_of(TEXT, INPUT_PARTS)},
    {"type": only("message"), "id": IDENTIFIER, "status": TEXT, "phase": TEXT},
)
OWN_MESSAGE = closed(
    {"role": only("assistant"), "content": one_of(TEXT, OUTPUT_PARTS)},
    {"type": only("message"), "id": IDENTIFIER, "status": TEXT, "phase": TEXT},
)
CALL = with_a({"type": only("function_call"), "call_id": TEXT, "name": TEXT, "arguments": TEXT})
RESULT = closed(
    {
        "type": only("function_call_output"),
        "call_id": {**TEXT, "description": "That of a function_call in the input, or in what it goes on from."},
        "output": one_of(TEXT, list_of(closed({"type": only("input_text"), "text": TEXT}))),
    },
    {"id": TEXT, "status": TEXT, "name": TEXT},
)
ITEMS = list_of(one_of(MESSAGE, OWN_MESSAGE, CALL, RESULT), minItems=1, maxItems=MOST_MESSAGES)
NAMED = kind("function", TEXT)["properties"]["type"]
FUNCTION = with_a({"type": NAMED, "name": TEXT})
TOOL = closed({"type": NAMED, "name": TEXT}, {"description": TEXT, "parameters": ANY_OBJECT, "strict": YES_NO})
SAME = (
    "metadata", "parallel_tool_calls", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention",
    "safety_identifier", "service_tier", "stream", "temperature", "top_p", "user",
)  # fmt: skip
PARAMETERS: Schema = {
    **{name: COMPLETION_PARAMETERS[name] for name in SAME},
    "background": only(False),
    "include": list_of(TEXT),
    "instructions": TEXT,
    "max_output_tokens": TOKENS,
    "max_tool_calls": WHOLE_NUMBER,
    "reasoning": closed({}, {"effort": IDENTIFIER, "summary": TEXT}),
    "previous_response_id": {**IDENTIFIER, "description": "Of a response that is kept, which this one goes on from."},
    "store": {**YES_NO, "description": "Whether it is kept, where the tenant keeps any; the answer says so."},
    "stream_options": closed({}, {"include_obfuscation": YES_NO}),
    "text": closed(
        {},
        {
            "format": one_of(
                with_a({"type": only("text", "json_object")}),
                with_a({"type": only("json_schema"), "schema": ANY_OBJECT}),
            ),
            "verbosity": IDENTIFIER,
        },
    ),
    "tool_choice": one_of(TEXT, FUNCTION, with_a({"type": only("allowed_tools"), "tools": list_of(FUNCTION)})),
    "tools": list_of(TOOL),
    "top_logprobs": WHOLE_NUMBER,
    "truncation": only("disabled", "auto"),
}
REQUEST = closed({"model": MODEL, "input": one_of(TEXT, ITEMS)}, PARAMETERS)
USAGE = with_a(
    {
        "input_tokens": {"type": "integer"},
        "input_tokens_details": ANY_OBJECT,
        "output_tokens": {"type": "integer"},
        "output_tokens_details": ANY_OBJECT,
        "total_tokens": {"type": "integer"},
    }
)
ANSWER = with_a(
    {
        "id": TEXT,
        "object": only("response"),
        "created_at": NUMBER,
        "status": only("completed", "incomplete"),
        "model": {**TEXT, "description": "The model that served."},
        "output": list_of(with_a({"id": TEXT, "type": TEXT, "status": TEXT})),
        "usage": USAGE,
    }
)
ANSWER["properties"] |= {"incomplete_details": optional(ANY_OBJECT), "store": YES_NO}
SCHEMA: dict[str, Any] = described(
    "createResponse", "A guarded call in the shape of OpenAI's Responses API", REQUEST, ANSWER, OpenAIErrorSerializer
)


class ResponsesEndpointSchema(OpenApiViewExtension):  # type: ignore[no-untyped-call]
    target_class = "guard.responses.views.ResponsesEndpoint"

    def view_replacement(self) -> type:
        return documented(self.target_class, SCHEMA)
