"""The running guard against its own OpenAPI document: what it allows is taken, and nothing is a defect of ours."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, cast

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import APIOperation, Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from tenants.money import TICKS_PER_USD
from tests.factories import ApiKeyFactory, BudgetFactory, CatalogueModelFactory, RouteStepFactory
from tests.support.api import operator
from tests.support.provider import Provider
from tests.support.server import GuardServer

EXAMPLES = 15
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
FOR_AGENTS = ("/api/chat", "/v1/", "/api/budget")
CHAT = {"/api/chat", "/v1/chat/completions", "/v1/embeddings", "/v1/responses"}

quickly = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


class Caller:
    """A tenant with money and a model that prices everything, its key, and an operator."""

    def __init__(self, server: GuardServer) -> None:
        with server.database():
            model = CatalogueModelFactory.create(
                image_allowance_tokens=1, price__tier__input_ticks=1, price__tier__output_ticks=1
            )
            self.embedding: str = CatalogueModelFactory.create(
                id="embedding", price__tier__input_ticks=1, price__tier__output_ticks=1
            ).id
            self.key = ApiKeyFactory.create()
            RouteStepFactory.create(tenant=self.key.tenant, model=model)
            BudgetFactory.create(tenant=self.key.tenant, limit_ticks=10**6 * TICKS_PER_USD)
            self.token = f"Token {operator().secret}"

    def headers_for(self, path: str) -> dict[str, str]:
        is_agent = path.startswith(FOR_AGENTS) and not path.startswith("/api/budgets")
        return {"Authorization": f"Bearer {self.key.secret}" if is_agent else self.token}


@pytest.fixture
def server(guard_server: Callable[..., GuardServer], provider: Provider) -> GuardServer:
    provider.behave(content="Hello")
    server: GuardServer = guard_server(start=False)
    return server


def operations(server: GuardServer) -> Iterator[APIOperation[Any, Any, Any, Any]]:
    schema = schemathesis.openapi.from_url(f"{server.url}/api/schema/?format=json")
    for operation in schema.get_all_operations():
        assert isinstance(operation, Ok)
        yield operation.ok()


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_no_request_is_a_defect_of_ours(server: GuardServer, mode: GenerationMode, subtests: pytest.Subtests) -> None:
    caller = Caller(server)
    server.start()
    checks = [*CHECKS, negative_data_rejection] if mode.is_negative else CHECKS
    for operation in operations(server):

        @quickly
        @given(case=operation.as_strategy(generation_mode=mode))
        def each(case: Case[Any]) -> None:
            case.call_and_validate(headers=caller.headers_for(case.operation.path), checks=checks)

        with subtests.test(operation.label), suppress(Unsatisfiable):  # without parameters there is no wrong one
            each()
    assert "Traceback" not in server.log


BEYOND_A_SCHEMA = ("64 bits", "no function_call of the input", "'dimensions'", "keeps no conversations")
"""What no document can say: the size of numbers in objects of any shape, that one item answers another, what a model
has, whose items are kept."""


def test_a_call_that_the_document_allows_is_served(server: GuardServer, subtests: pytest.Subtests) -> None:
    caller = Caller(server)
    server.start()
    for operation in operations(server):
        if operation.path not in CHAT:
            continue

        @quickly
        @given(case=operation.as_strategy(generation_mode=GenerationMode.POSITIVE))
        def each(case: Case[Any]) -> None:
            case.headers.pop("Idempotency-Key", None)
            body = cast(dict[str, Any], case.body)
            body["model"] = caller.embedding if case.operation.path == "/v1/embeddings" else "auto"
            body.pop("previous_response_id", None)  # of which none is there
            if case.operation.path == "/api/chat":
                body["tenantId"] = caller.key.tenant.id
            answer = case.call_and_validate(headers=caller.headers_for(case.operation.path), checks=CHECKS)
            assert answer.status_code == 200 or any(map(answer.text.count, BEYOND_A_SCHEMA)), (answer.text, body)

        with subtests.test(operation.label):
            each()
    assert "Traceback" not in server.log
