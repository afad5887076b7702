"""What a provider's error means for the call and for the bill, whatever its shape. Pure.

ProviderError
├── Rejected          the provider says the request is bad: its caller's error, if they chose the model
│   └── ContentRefused   it refuses what is said in it: no other provider gets to see the same text
└── Failed            anything else: the call falls back
      `billed` is False where the provider surely billed nothing, None where nobody knows
      `is_throttled` where the model is well, but has enough to do: the breaker does not count it

Providers tell apart by words and codes what they answer with one status: xAI's 403 is a refused text, an
account without credit, or a key without access; a 429 is a throttle or an empty account; a gateway's 200 may
hold another provider's error.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

import orjson

from spend.codes import FailureCode

CALLERS_ERRORS = {400, 413, 415, 422}
FAILURE_CODES = {
    401: FailureCode.PROVIDER_REFUSED_KEY,
    402: FailureCode.PROVIDER_OUT_OF_MONEY,
    403: FailureCode.PROVIDER_REFUSED_KEY,
    404: FailureCode.MODEL_NOT_FOUND,
    408: FailureCode.TIMEOUT,
    429: FailureCode.RATE_LIMITED,
    504: FailureCode.TIMEOUT,
    524: FailureCode.TIMEOUT,
}
GAVE_UP_WAITING = {408, 504, 524}
"""Somebody on the way did, while the model may have answered, and billed."""
PAGES_INSTEAD = {401, 403, 404, 405}
"""Errors that come as a page from what is no model provider: a proxy's login, a web site's "not found"."""
MOST_REST_S = 60.0

CONTENT_CODES = {"content_filter", "content_policy_violation", "content_moderation", "invalid_prompt"}
CONTENT_WORDS = re.compile(
    r"\b(violat\w*|against|breach\w*)\b.{0,60}\b(guidelines?|polic(y|ies))\b|\bsafety_check", re.I
)
CONTENT_STATUSES = {400, 403, 422, 451}
MONEY_CODES = {
    "insufficient_quota", "billing_hard_limit_reached", "insufficient_balance", "insufficient_credits",
    "billing_not_active", "credit_balance_too_low",
}  # fmt: skip
MONEY_WORDS = re.compile(
    r"\bcredits?\b|\bspending limit|\bbilling\b|\binsufficient (balance|funds|quota)|\bpayment required", re.I
)
MONEY_STATUSES = {402, 403, 429}
STATUSES_OF_TYPES = {
    "authentication_error": 401,
    "badrequesterror": 400,
    "internalservererror": 500,
    "invalid_request_error": 400,
    "notfounderror": 404,
    "permission_error": 403,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "ratelimiterror": 429,
}


class ProviderError(Exception):
    """Something went wrong at the provider; `code` is what the call's story says of it."""

    code: FailureCode


class Rejected(ProviderError):
    """The provider's own words for what is wrong with the request, and the field it names."""

    code = FailureCode.REJECTED

    def __init__(self, message: str, param: str | None = None, refusal: str | None = None) -> None:
        """`refusal` is the provider's code for why, such as unsupported_parameter."""
        super().__init__(message)
        self.param = param
        self.refusal = refusal


class ContentRefused(Rejected):
    code = FailureCode.CONTENT_FILTER


class Failed(ProviderError):
    def __init__(self, code: FailureCode, *, billed: bool | None = False, retry_after_s: float | None = None) -> None:
        super().__init__(code)
        self.code = code
        self.billed = billed
        self.retry_after_s = retry_after_s

    @property
    def is_throttled(self) -> bool:
        return self.code == FailureCode.RATE_LIMITED


@dataclass(frozen=True, slots=True)
class ErrorWords:
    """What an error's body says, of any of the shapes that providers give it."""

    message: str = ""
    code: Any = None
    type: str = ""
    param: str | None = None

    @property
    def names(self) -> set[str]:
        return {name.lower() for name in (self.code, self.type) if isinstance(name, str)}

    @property
    def status(self) -> int:
        """The status that an error within a 200 stands for."""
        if isinstance(self.code, int | str) and str(self.code).isdecimal() and 400 <= int(self.code) < 600:
            return int(self.code)
        return next((status for name, status in STATUSES_OF_TYPES.items() if name in self.names), 500)


def is_error(body: Any) -> bool:
    """Whether this JSON is an error, though it came with status 200 or as a stream's event."""
    if not isinstance(body, Mapping):
        return False
    if body.get("error") or body.get("object") == "error":
        return True
    return not body.get("choices") and any(body.get(name) for name in ("error_message", "error_type", "detail"))


def words_of_error(body: Any) -> ErrorWords:
    """Of `{"error": {…}}`, `{"error": str, …}`, `{"object": "error", …}`, `{"error_message": …}` or `{"detail": …}`."""
    if not isinstance(body, Mapping):
        return ErrorWords(message=body if isinstance(body, str) else "")
    inner = body.get("error")
    fields = {**body, **inner} if isinstance(inner, Mapping) else {"message": inner, **body}
    words = fields.get("message") or fields.get("error_message") or fields.get("detail") or inner or ""
    param = fields.get("param")
    return ErrorWords(
        message=words if isinstance(words, str) else orjson.dumps(words, default=str).decode(),
        code=fields.get("code"),
        type=str(fields.get("type") or fields.get("error_type") or ""),
        param=str(param) if param else None,
    )


def meaning_of_status(status: int, headers: Mapping[str, str], content: bytes, now: datetime) -> ProviderError:
    """What an answer of this status means, 2xx aside."""
    if status < 400:
        return Failed(FailureCode.REDIRECTED)
    if status in PAGES_INSTEAD and is_page(headers, content):
        return Failed(FailureCode.ANSWERED_WITH_PAGE)
    try:
        words = words_of_error(orjson.loads(content))
    except ValueError:
        words = ErrorWords(message=content.decode(errors="replace").strip())
    return meaning_of_words(status, words, rest_of(headers, now))


def meaning_of_error_within(body: Mapping[str, Any]) -> ProviderError:
    """What an error means that came with status 200: it may be the gateway's own fault, so none is the caller's.

    One that counts tokens may be billed, whatever it means.
    """
    words = words_of_error(body)
    meaning = meaning_of_words(words.status, words)
    if isinstance(meaning, ContentRefused):
        return meaning
    code = FailureCode.ERROR_WITHIN_ANSWER if isinstance(meaning, Rejected) else meaning.code
    if _counts_tokens(body):
        return Failed(code, billed=None)
    return meaning if isinstance(meaning, Failed) else Failed(code)


def _counts_tokens(body: Mapping[str, Any]) -> bool:
    usage = body.get("usage")
    return isinstance(usage, Mapping) and any(isinstance(count, int | float) and count > 0 for count in usage.values())


def meaning_of_words(status: int, words: ErrorWords, retry_after_s: float | None = None) -> ProviderError:
    if words.names & CONTENT_CODES or (status in CONTENT_STATUSES and CONTENT_WORDS.search(words.message)):
        return ContentRefused(words.message or "The provider refused the content of this request.", words.param)
    if words.names & MONEY_CODES or (status in MONEY_STATUSES and MONEY_WORDS.search(words.message)):
        return Failed(FailureCode.PROVIDER_OUT_OF_MONEY)
    # xAI answers 400, not 401, to a key that it does not know.
    if status == 400 and "api key" in words.message.lower():
        return Failed(FAILURE_CODES[401])
    if status in CALLERS_ERRORS:
        refusal = words.code if isinstance(words.code, str) else None
        return Rejected(words.message or "The provider rejected the request.", words.param, refusal)
    billed = None if status in GAVE_UP_WAITING else False
    return Failed(FAILURE_CODES.get(status, FailureCode.SERVER_ERROR), billed=billed, retry_after_s=retry_after_s)


def is_page(headers: Mapping[str, str], content: bytes) -> bool:
    """Whether an answer is a page for people, and so not from what was meant to be asked."""
    return "html" in headers.get("content-type", "").lower() or content.lstrip()[:1] == b"<"


def rest_of(headers: Mapping[str, str], now: datetime) -> float | None:
    """Seconds until the provider wants to be asked again, a minute at most; None where it does not say."""
    for name, seconds in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        if (said := headers.get(name, "").strip()) and (rest_s := _seconds(said, seconds, now)) is not None:
            return min(max(rest_s, 0.0), MOST_REST_S)
    return None


def _seconds(said: str, unit_s: float, now: datetime) -> float | None:
    if re.fullmatch(r"\d{1,12}(\.\d{1,9})?", said):
        return float(said) * unit_s
    try:
        return (parsedate_to_datetime(said) - now).total_seconds()
    except (ValueError, TypeError):  # no date, or one without a zone
        return None
