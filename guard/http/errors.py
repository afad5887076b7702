"""Every error that leaves the guard, and the one place that knows HTTP statuses.

    GuardError
    ├── InvalidRequest        400 invalid_request       body not valid; `param` names the field
    ├── ContentFiltered       400 content_filter        the provider refuses what is said in the request
    ├── InvalidApiKey         401 invalid_api_key       no key, bad key, revoked, expired
    ├── Forbidden             403 forbidden             other tenant, disabled tenant, model not allowed
    ├── NotFound              404 not_found
    ├── MethodNotAllowed      405 method_not_allowed
    ├── RequestTimedOut       408 request_timeout       the body stopped halfway
    ├── IdempotencyConflict   409 idempotency_conflict  the same key is still in flight
    ├── RequestTooLarge       413 request_too_large
    ├── UnsupportedMediaType  415 unsupported_media_type
    ├── IdempotencyMismatch   422 idempotency_mismatch  the same key with another body
    ├── BudgetExceeded        429 budget_exceeded       no model on the route fits what is left
    ├── BudgetHeld            429 budget_held           calls in flight hold what is left
    ├── RateLimited           429 rate_limited
    ├── HeadersTooLarge       431 headers_too_large     request line and headers
    ├── LedgerUnavailable     503 ledger_unavailable    the database can't take the hold
    ├── AllModelsFailed       503 all_models_failed     every model failed or is open-circuit
    └── InternalError         500 internal_error        a defect of ours; no detail leaks

Each answers with the contract's envelope: `{"error": {"message", "type", "code", "param", "requestId"}}`
with a camelCase `requestId` under /api and a snake_case `request_id` under /v1.  What DRF, Django and
the ledger raise is translated here (`error_of`).
"""

import logging
import re
from collections.abc import Mapping
from typing import Any, ClassVar

from django.core.exceptions import PermissionDenied, RequestDataTooBig
from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpRequest, JsonResponse
from rest_framework import exceptions as drf

from guard.http.request_ids import request_id_of
from spend.ledger.rules import LedgerError

OPENAI_PATH = re.compile(r"^/+(v1|openai)(/|\Z)|^/*(chat/completions|completions|embeddings|responses|models)/*\Z")

logger = logging.getLogger(__name__)

MOST_PARAM_CHARACTERS = 128


class GuardError(Exception):
    """An error with its place in the contract. `extras` join the envelope, `headers` the answer."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    type: ClassVar[str] = "api_error"
    message: ClassVar[str] = "Something went wrong on our side."
    should_retry: bool | None = None

    def __init__(
        self,
        message: str | None = None,
        *,
        param: str | None = None,
        retry_after_s: int | None = None,
        headers: Mapping[str, str] | None = None,
        should_retry: bool | None = None,
        **extras: Any,
    ) -> None:
        super().__init__(message or self.message)
        self.param = param
        self.retry_after_s = retry_after_s
        self.headers = dict(headers or {})
        self.should_retry = self.should_retry if should_retry is None else should_retry
        self.extras = extras


class InvalidRequest(GuardError):
    status, code, type = 400, "invalid_request", "invalid_request_error"
    message = "The request is not valid."


def refuse(param: str, why: str) -> InvalidRequest:
    """The error that names the field; a name made up by the caller may be as long as the body."""
    if len(param) > MOST_PARAM_CHARACTERS:
        param = f"{param[:MOST_PARAM_CHARACTERS]}…"
    return InvalidRequest(f"{param}: {why}", param=param)


class ContentFiltered(GuardError):
    status, code, type = 400, "content_filter", "invalid_request_error"
    message = "The provider refused the content of this request."


class InvalidApiKey(GuardError):
    status, code, type = 401, "invalid_api_key", "authentication_error"
    message = "No API key was given, or it is wrong, revoked or expired. Send 'Authorization: Bearer <key>'."


class Forbidden(GuardError):
    status, code, type = 403, "forbidden", "permission_error"
    message = "This key may not do that."


class NotFound(GuardError):
    status, code, type = 404, "not_found", "invalid_request_error"
    message = "There is nothing at this address."


class MethodNotAllowed(GuardError):
    status, code, type = 405, "method_not_allowed", "invalid_request_error"
    message = "This address does not take that method."


class RequestTimedOut(GuardError):
    """The connection is closed with it: whatever of the body came later would be taken for another request."""

    status, code, type = 408, "request_timeout", "invalid_request_error"
    message = "The request body did not arrive in time. No model was called and nothing was spent."


class IdempotencyConflict(GuardError):
    status, code, type = 409, "idempotency_conflict", "invalid_request_error"
    message = "A call with this Idempotency-Key is still in flight."
    should_retry = False


class RequestTooLarge(GuardError):
    status, code, type = 413, "request_too_large", "invalid_request_error"
    message = "The request body is too large."


class HeadersTooLarge(GuardError):
    status, code, type = 431, "headers_too_large", "invalid_request_error"
    message = "The request line and the headers are too large."


class UnsupportedMediaType(GuardError):
    status, code, type = 415, "unsupported_media_type", "invalid_request_error"
    message = "Send JSON, with 'Content-Type: application/json'."


class IdempotencyMismatch(GuardError):
    status, code, type = 422, "idempotency_mismatch", "invalid_request_error"
    message = "This Idempotency-Key was used with another body."


class BudgetExceeded(GuardError):
    status, code, type = 429, "budget_exceeded", "insufficient_quota"
    message = "The budget is used up: no model on the route fits what is left."
    should_retry = False


class BudgetHeld(GuardError):
    status, code, type = 429, "budget_held", "rate_limit_error"
    message = "What is left of the budget is held by calls in flight. The money is not spent; try again."
    should_retry = True


class RateLimited(GuardError):
    status, code, type = 429, "rate_limited", "rate_limit_error"
    message = "Too many requests."


class LedgerUnavailable(GuardError):
    status, code, type = 503, "ledger_unavailable", "api_error"
    message = "The ledger cannot be written at the moment. No model was called and nothing was spent."


class AllModelsFailed(GuardError):
    status, code, type = 503, "all_models_failed", "api_error"
    message = "No model on the route could answer."


class InternalError(GuardError):
    pass


def error_of(error: BaseException) -> GuardError:
    """The contract's error for whatever was raised; a defect is logged here, once, with its traceback."""
    match error:
        case GuardError():
            return error
        case LedgerError() | OperationalError() | InterfaceError():
            return LedgerUnavailable(retry_after_s=1)
        case RequestDataTooBig():
            return RequestTooLarge()
        case drf.ValidationError():
            param, message = _first_problem(error.detail)
            return InvalidRequest(message, param=param)
        case drf.ParseError():
            return InvalidRequest(str(error.detail))
        case drf.AuthenticationFailed() | drf.NotAuthenticated():
            return InvalidApiKey()
        case drf.PermissionDenied() | PermissionDenied():
            return Forbidden()
        case drf.NotFound() | Http404():
            return NotFound()
        case drf.MethodNotAllowed():
            return MethodNotAllowed()
        case drf.UnsupportedMediaType():
            return UnsupportedMediaType()
        case drf.Throttled():
            return RateLimited(retry_after_s=max(1, int(getattr(error, "wait", None) or 1)))
    logger.error("a call failed on a defect of ours", exc_info=error)
    return InternalError()


def _first_problem(detail: Any, path: str = "") -> tuple[str | None, str]:
    """The first message in DRF's tree of them, and the dotted path of its field."""
    if isinstance(detail, dict):
        field, inner = next(iter(detail.items()))
        return _first_problem(inner, path if field == "non_field_errors" else f"{path}.{field}".lstrip("."))
    if isinstance(detail, list):
        index, inner = next((index, inner) for index, inner in enumerate(detail) if inner)
        return _first_problem(inner, f"{path}.{index}" if isinstance(inner, dict) else path)
    return path or None, f"{path}: {detail}" if path else str(detail)


def answer_to(error: BaseException, context: Mapping[str, Any]) -> JsonResponse:
    """DRF's exception handler: any exception as an answer in the envelope."""
    return envelope(error_of(error), context["request"])


def envelope(error: GuardError, request: HttpRequest) -> JsonResponse:
    request_id = request_id_of(request)
    headers = {"X-Request-Id": request_id, **error.headers}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(error.retry_after_s)
    if error.should_retry is not None:
        headers["x-should-retry"] = str(error.should_retry).lower()
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    body = {"error": envelope_body(error, request.path, request_id)}
    return JsonResponse(body, status=error.status, headers=headers)


def is_openai_path(path: str) -> bool:
    """Whether a client that speaks OpenAI's API asks for this path, be it the right one or not."""
    return bool(OPENAI_PATH.search(path))


def envelope_body(error: GuardError, path: str, request_id: str) -> dict[str, Any]:
    """What stands under "error", in the answer to `path`."""
    return {
        "message": str(error),
        "type": error.type,
        "code": error.code,
        "param": error.param,
        "request_id" if is_openai_path(path) else "requestId": request_id,
        **error.extras,
    }
