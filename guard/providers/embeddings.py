"""A provider's embeddings: what of an answer comes back."""

from collections.abc import Mapping
from typing import Any, cast

import orjson

from guard.http.sse import BLANK
from guard.providers.failures import Failed, is_error, is_page, meaning_of_error_within
from spend.codes import FailureCode


def embeddings_in(headers: Mapping[str, str], content: bytes) -> dict[str, Any]:
    """The embeddings in an answer with status 200. Raises Rejected or Failed."""
    if is_page(headers, content):
        raise Failed(FailureCode.ANSWERED_WITH_PAGE)
    try:
        answer = orjson.loads(content.strip(BLANK))
    except ValueError:
        raise Failed(FailureCode.BAD_ANSWER, billed=None) from None
    if is_error(answer) and not answer.get("data"):
        raise meaning_of_error_within(answer)
    if not _are_embeddings(answer):
        raise Failed(FailureCode.BAD_ANSWER, billed=None)
    return cast(dict[str, Any], answer)


def _are_embeddings(answer: Any) -> bool:
    data = answer.get("data") if isinstance(answer, dict) else None
    return isinstance(data, list) and all(
        isinstance(each, dict) and isinstance(each.get("embedding"), list | str) for each in data
    )
