"""The place of `POST /v1/embeddings` in the OpenAPI document; it says what `guard.embeddings` checks."""

from typing import Any

from drf_spectacular.extensions import OpenApiViewExtension

from guard.api.chat_schema import described, documented
from guard.api.serializers import OpenAIErrorSerializer
from guard.chat.request.schemas import NUMBER, TEXT, Schema, closed, list_of, one_of, only, schema_of, with_a
from guard.embeddings.request import MOST_INPUTS, MOST_TOKEN_ID, MOST_TOKENS, SENT, TABLE

WORDS: Schema = {**TEXT, "minLength": 1}
TOKEN: Schema = {"type": "integer", "minimum": 0, "maximum": MOST_TOKEN_ID}
INPUT = one_of(
    WORDS,
    list_of(WORDS, minItems=1, maxItems=MOST_INPUTS),
    list_of(TOKEN, minItems=1, maxItems=MOST_TOKENS),
    list_of(list_of(TOKEN, minItems=1), minItems=1, maxItems=MOST_INPUTS),
)
REQUEST = closed(
    {"model": {**schema_of(TABLE["model"]), "description": "An embedding model of this guard."}, "input": INPUT},
    {name: schema_of(TABLE[name]) for name in SENT},
)
VECTOR = one_of(list_of(NUMBER), {**TEXT, "description": "Floats of 32 bits, in base64."})
ANSWER = with_a(
    {
        "object": only("list"),
        "data": list_of(with_a({"object": only("embedding"), "index": {"type": "integer"}, "embedding": VECTOR})),
        "model": TEXT,
        "usage": with_a({"prompt_tokens": {"type": "integer"}, "total_tokens": {"type": "integer"}}),
    }
)
SCHEMA: dict[str, Any] = described(
    "createEmbedding", "Vectors of texts, in the OpenAI shape", REQUEST, ANSWER, OpenAIErrorSerializer
)


class EmbeddingsEndpointSchema(OpenApiViewExtension):  # type: ignore[no-untyped-call]
    target_class = "guard.embeddings.views.EmbeddingsEndpoint"

    def view_replacement(self) -> type:
        return documented(self.target_class, SCHEMA)
