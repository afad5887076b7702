"""Codes: whatever is written of a call can be read by people, on every page that shows it."""

import pytest

from dashboard.step_sentences import failure_of, reason_of, sentences_of
from guard.http.errors import GuardError
from guard.policy.adapt import MEANINGS
from guard.simulation.wording import LABELS, LEFT_OUT
from spend.codes import CALL_CODES, OPERATORS_TO_MEND, FailureCode, StepCode, words_of

BEFORE_A_CALL = {
    "invalid_api_key", "not_found", "method_not_allowed", "request_timeout", "request_too_large", "headers_too_large",
    "unsupported_media_type",
}  # fmt: skip
"""Errors of requests that never become a call, and so stand on no page."""
HAPPENED = {
    "held", "served", "usage_not_believed", "settled", "failed", "broke_off", "refused", "handed_off", "adapted",
    "rejected", "shortened",
    *LABELS,
}  # fmt: skip
"""Steps that no plan has: they are what became of its offers."""


def every_error(of: type[GuardError] = GuardError) -> set[type[GuardError]]:
    return {of}.union(*(every_error(error) for error in of.__subclasses__()))


def test_every_error_of_a_call_has_its_sentence() -> None:
    assert {error.code for error in every_error()} - BEFORE_A_CALL == CALL_CODES.keys()
    assert all(sentence.endswith(".") for sentence in CALL_CODES.values())


@pytest.mark.parametrize("code", FailureCode)
def test_every_failure_has_its_words(code: FailureCode) -> None:
    assert words_of(code, "xai") not in {"", code.value}
    assert "{" not in words_of(code, "xai")
    assert failure_of(code).endswith(".")
    assert not failure_of(code).startswith("Code:")


@pytest.mark.parametrize("code", StepCode)
def test_every_step_has_its_sentence(code: StepCode) -> None:
    (step,) = sentences_of([{"model": "grok-4.3", "decision": code}])
    assert step.text.endswith(".")
    assert "grok-4.3" in step.text or code in {StepCode.REFUSED, StepCode.HANDED_OFF}


def test_an_operator_who_asks_beforehand_reads_why_of_every_model_that_a_plan_leaves_out() -> None:
    assert LEFT_OUT.keys() == set(StepCode) - HAPPENED
    assert set(MEANINGS.values()) <= LEFT_OUT.keys()


def test_a_call_over_its_own_rate_is_not_told_of_its_providers() -> None:
    assert "provider" not in reason_of("rate_limited")
    assert "provider" in failure_of("rate_limited")


def test_what_another_version_wrote_is_shown_as_it_is() -> None:
    assert (reason_of("tomorrows"), reason_of(""), words_of("tomorrows")) == ("Code: tomorrows.", "", "tomorrows")
    assert sentences_of([{"model": "m", "decision": "tomorrows_step"}])[0].text == "m: tomorrows step"


def test_what_only_an_operator_mends_is_a_failure() -> None:
    assert set(FailureCode) >= OPERATORS_TO_MEND
