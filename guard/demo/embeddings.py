"""Embeddings in the shape of OpenAI's API: of the same text always the same vector. Pure."""

from base64 import b64encode
from hashlib import shake_256
from math import sqrt
from struct import pack, unpack
from typing import Any

import orjson

from guard.demo.behaviours import Behaviour
from guard.demo.completions import BadRequestError, Json, request_for_a_model
from guard.demo.texts import tokens_of

DIMENSIONS = 1536
MOST_DIMENSIONS = 3072
HALF = 2**31
KNOWN = frozenset(["model", "input", "dimensions", "encoding_format", "user"])


def read_request(body: bytes) -> Json:
    """The request, checked as far as the demo needs it; its input as a list. Raises BadRequestError."""
    request = request_for_a_model(body)
    if unknown := sorted(request.keys() - KNOWN):
        raise BadRequestError(f"Unknown parameter: '{unknown[0]}'.", unknown[0])
    given = request.get("input")
    inputs = [given] if isinstance(given, str) or _are_tokens(given) else given
    if not isinstance(inputs, list) or not inputs or not all(inputs):
        raise BadRequestError("'$.input' is invalid.", "input")
    if not 0 < request.get("dimensions", DIMENSIONS) <= MOST_DIMENSIONS:
        raise BadRequestError("Invalid value for 'dimensions'.", "dimensions")
    return {**request, "input": inputs}


def _are_tokens(given: Any) -> bool:
    return isinstance(given, list) and bool(given) and isinstance(given[0], int)


def answer_to(request: Json, behaviour: Behaviour) -> Json:
    data = [
        {"object": "embedding", "index": index, "embedding": _embedding(each, request)}
        for index, each in enumerate(request["input"])
    ]
    answer = {"object": "list", "data": data, "model": request["model"]}
    usage = usage_of(request) if behaviour.usage == "counted" else behaviour.usage
    return answer if usage is None else {**answer, "usage": usage}


def usage_of(request: Json) -> Json:
    tokens = sum(tokens_of(each) if isinstance(each, str) else len(each) for each in request["input"])
    return {"prompt_tokens": tokens, "total_tokens": tokens}


def _embedding(given: str | list[int], request: Json) -> str | list[float]:
    vector = vector_of(given, request.get("dimensions", DIMENSIONS))
    if request.get("encoding_format") == "base64":  # as OpenAI: 32-bit floats, the least byte first
        return b64encode(pack(f"<{len(vector)}f", *vector)).decode()
    return vector


def vector_of(given: str | list[int], dimensions: int) -> list[float]:
    """A direction that nothing but the input decides, of length 1."""
    digest = shake_256(orjson.dumps(given)).digest(4 * dimensions)
    figures = [figure / HALF - 1 for figure in unpack(f"<{dimensions}I", digest)]
    length = sqrt(sum(figure * figure for figure in figures))
    return [figure / length for figure in figures]
