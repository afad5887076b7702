"""The OpenAPI document has the parameters of a response that are taken, and no others."""

import pytest

from guard.api.responses_schema import REQUEST
from guard.chat.request.schemas import schema_of
from guard.responses.parameters import REFUSED, TABLE

pytestmark = pytest.mark.pure


def test_the_document_has_what_is_taken() -> None:
    assert REQUEST["properties"].keys() == TABLE.keys() - REFUSED.keys()


def test_every_check_says_what_it_lets_pass() -> None:
    assert {name for name, check in TABLE.items() if not schema_of(check)} == {"input", *REFUSED}
