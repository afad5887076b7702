"""The place of `POST /v1/responses` in the OpenAPI document; it says what `guard.responses` checks."""

from typing import Any

from drf_spectacular.extensions import OpenApiViewExtension

from guard.api.chat_schema import (
    CACHE_BREAKPOINT,
    IDENTIFIER,
    MODEL,
    described,
    documented,
)
from guard.api.serializers import OpenAIErrorSerializer
from guard.chat.request.messages import MOST_MESSAGES
from guard.chat.request.schemas import (
    ANY_OBJECT,
    NUMBER,
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
from guard.responses import parameters

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
REFERENCE = with_a(
    {"type": only("item_reference"), "id": {**TEXT, "description": "Of an item of an answer that is kept."}}
)
ITEMS = list_of(one_of(MESSAGE, OWN_MESSAGE, CALL, RESULT, REFERENCE), minItems=1, maxItems=MOST_MESSAGES)
DESCRIPTIONS = {
    "previous_response_id": "Of a response that is kept, which this one goes on from.",
    "store": "Whether it is kept, where the tenant keeps any; the answer says so.",
    "user": "The customer.",
    **dict.fromkeys(parameters.DROPPED, "Left out of what is sent."),
}
PARAMETERS: Schema = {
    name: {**schema_of(check), **({"description": DESCRIPTIONS[name]} if name in DESCRIPTIONS else {})}
    for name, check in sorted(parameters.TABLE.items())
    if name not in {"model", "input", *parameters.REFUSED}
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
