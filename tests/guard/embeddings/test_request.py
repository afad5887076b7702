"""Embeddings requests read and refused, without a server."""

import re
import typing
from typing import Any

import pytest
from openai.types import EmbeddingCreateParams

from guard.chat.billing import count_prompt
from guard.demo.embeddings import usage_of, vector_of
from guard.embeddings.request import MOST_TOKENS, SENT, TABLE, read_embeddings
from guard.http.errors import InvalidRequest
from guard.providers.embeddings import embeddings_in
from guard.providers.failures import Failed
from tests.support.environment import ROOT

Json = dict[str, Any]


def test_every_parameter_that_the_openai_package_knows_is_decided() -> None:
    assert typing.get_type_hints(EmbeddingCreateParams).keys() == TABLE.keys()


def test_the_page_has_every_parameter_and_says_what_the_code_does() -> None:
    page = (ROOT / "docs" / "embeddings.md").read_text().split("\n## ")[0]
    rows = dict(re.findall(r"^\| `([a-z_]+)` \| (.+?) \|", page, re.MULTILINE))
    assert rows.keys() == TABLE.keys()
    assert {name for name, verb in rows.items() if verb == "sends it"} == {*SENT, "input"}


@pytest.mark.parametrize(
    ("given", "inputs", "least"),
    [
        ("Hellö", ["Hellö"], 6),
        (["a", "bc"], ["a", "bc"], 3),
        ([1, 2, 3], [[1, 2, 3]], 3),
        ([[1, 2], [3]], [[1, 2], [3]], 3),
        (["a", [1]], ["a", [1]], 2),
    ],
)
def test_inputs_of_every_kind_are_a_list_and_bounded(given: Any, inputs: list[Any], least: int) -> None:
    asked = read_embeddings({"model": "m", "input": given, "user": " ann ", "dimensions": 3, "encoding_format": None})
    assert asked.body == {"input": inputs, "dimensions": 3, "user": " ann "}
    assert (asked.customer, asked.conversation, asked.stream) == ("ann", "", False)
    assert asked.ask.input_tokens == least + 8 * len(inputs) + 16
    assert least >= count_prompt(asked.body) >= usage_of({"input": inputs})["prompt_tokens"] - len(inputs)


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        ({"surprise": 1}, "surprise"),
        ({"model": None}, "model"),
        ({"model": "auto"}, "model"),
        ({"input": None}, "input"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": {}}, "input"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": ["a", []]}, "input[1]"),
        ({"input": ["a", None]}, "input[1]"),
        ({"input": ["a", 1]}, "input[1]"),
        ({"input": [1, "a"]}, "input"),
        ({"input": [1, 2.0]}, "input"),
        ({"input": [[1, True]]}, "input[0]"),
        ({"input": [[1, -1]]}, "input[0]"),
        ({"input": ["a"] * 2049}, "input"),
        ({"input": [[1] * MOST_TOKENS, [1]]}, "input"),
        ({"encoding_format": "int8"}, "encoding_format"),
        ({"dimensions": 0}, "dimensions"),
        ({"user": "a\nb"}, "user"),
    ],
)
def test_what_is_refused_is_named(request_: Json, param: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        read_embeddings({"model": "m", "input": "x", **request_})
    assert raised.value.param == param


@pytest.mark.parametrize(
    "content",
    [
        b"no json", b"{}", b'{"data": [1]}', b'{"data": [{"embedding": 1}]}', b"<!doctype html>",
        b'{"error": {"message": "overloaded", "code": 503}}',
    ],
)  # fmt: skip
def test_an_answer_that_is_none_is_told_as_a_failure(content: bytes) -> None:
    with pytest.raises(Failed):
        embeddings_in({"content-type": "application/json"}, content)


def test_the_demo_providers_vectors_are_the_same_for_the_same_text() -> None:
    vector = vector_of("a", 8)
    assert vector == vector_of("a", 8) != vector_of("b", 8)
    assert sum(figure * figure for figure in vector) == pytest.approx(1)
