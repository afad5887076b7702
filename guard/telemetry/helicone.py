"""Helicone: one log an attempt, sent by threads of its own from a bounded queue.

A call only puts its attempt into the queue, which takes microseconds and cannot fail.  While Helicone
is away what is queued waits and is tried again; once the queue is full the newest are dropped, and
counted.  Prompts and answers are queued only where the tenant shares them; tokens, costs and times always.
"""

import logging
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from queue import Empty
from time import monotonic
from typing import Any
from urllib.parse import quote

import orjson
import requests

from guard.call import ChatCall, EmbeddingCall
from guard.telemetry.attempt import Attempt
from guard.telemetry.bounded_queue import BoundedQueue, size_of
from guard.telemetry.transcript import answer_of
from spend.codes import FailureCode
from tenants.money import usd_string

logger = logging.getLogger(__name__)

MOST_QUEUED = 10_000
MOST_QUEUED_BYTES = 64 * 1024 * 1024
THREADS = 4
TIMEOUT_S = (3.0, 10.0)
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 60.0
STOP_S = 5.0
PRINTABLE = "".join(map(chr, range(0x20, 0x7F)))
EDGES = re.compile("^ +| +$")

STATUSES: dict[str, int] = {
    FailureCode.TIMEOUT: 408,
    FailureCode.RATE_LIMITED: 429,
    FailureCode.PROVIDER_REFUSED_KEY: 401,
    FailureCode.PROVIDER_OUT_OF_MONEY: 402,
    FailureCode.MODEL_NOT_FOUND: 404,
    FailureCode.REJECTED: 400,
    FailureCode.CONTENT_FILTER: 400,
    FailureCode.REDIRECTED: 302,
}
NOT_SENT = frozenset({FailureCode.CIRCUIT_OPEN, FailureCode.NO_PROVIDER_KEY})
SETTINGS = frozenset(
    {
        "frequency_penalty", "logprobs", "max_completion_tokens", "n", "parallel_tool_calls", "presence_penalty",
        "seed", "store", "temperature", "top_logprobs", "top_p",
    }
)  # fmt: skip
"""Fields of a request that are numbers or switches: with the model's name all that leaves unless the tenant shares."""


@dataclass(frozen=True, slots=True)
class Log:
    """What Helicone is told of an attempt, which holds nothing of what was said unless the tenant shares it."""

    headers: Mapping[str, str]
    attempt: Attempt
    size: int


class Unsent(Exception):
    """Helicone did not take a log; `may_retry` where it might later."""

    def __init__(self, message: str, *, may_retry: bool) -> None:
        super().__init__(message)
        self.may_retry = may_retry


class Helicone:
    def __init__(self, base_url: str, api_key: str) -> None:
        self.url, self.api_key = f"{base_url}/custom/v1/log", api_key
        line = "%d logs for Helicone were dropped: its queue is full"
        self.queue: BoundedQueue[Log] = BoundedQueue(MOST_QUEUED, MOST_QUEUED_BYTES, logger, line)
        self.stopping = threading.Event()
        self.threads = [threading.Thread(target=self._run, name="helicone", daemon=True) for _ in range(THREADS)]
        for thread in self.threads:
            thread.start()

    def tell(self, call: ChatCall, attempt: Attempt) -> None:
        """Queue the attempt's log. Neither waits nor raises."""
        if attempt.code not in NOT_SENT:
            self.queue.offer(log_of(call, attempt))

    def stop(self) -> None:
        """Send what is queued, for a few seconds at most."""
        deadline = monotonic() + STOP_S
        self.stopping.set()
        for thread in self.threads:
            thread.join(max(0.0, deadline - monotonic()))
        if left := self.queue.qsize():
            logger.warning("%d logs for Helicone were not sent before the stop", left)

    def _run(self) -> None:
        wait_s = FIRST_WAIT_S
        with requests.Session() as session:
            while not (self.stopping.is_set() and self.queue.empty()):
                try:
                    log = self.queue.get(timeout=0.2)
                except Empty:
                    continue
                if self._send(session, log):
                    wait_s = FIRST_WAIT_S
                    continue
                # Behind the others: one that Helicone fails on must not stand in their way.
                self.queue.offer(log)
                if self.stopping.wait(wait_s):
                    return
                wait_s = min(wait_s * 2, LONGEST_WAIT_S)

    def _send(self, session: requests.Session, log: Log) -> bool:
        """Whether that is the end of it: it is sent, or no other try would send it."""
        try:
            self._post(session, log)
        except Unsent as unsent:
            if unsent.may_retry:
                return False
            logger.warning("Helicone refused a log: %s", unsent)
        except Exception as error:  # noqa: BLE001  only its kind is told: its text may show what was said
            logger.warning("a log for Helicone could not be sent: %s", type(error).__name__)
        return True

    def _post(self, session: requests.Session, log: Log) -> None:
        """Raises Unsent. Helicone answers 200 to some failures, with an error in the body."""
        try:
            answer = session.post(
                self.url,
                data=orjson.dumps(body_of(log.attempt)),
                headers={**log.headers, "Authorization": f"Bearer {self.api_key}", "Content-Type": "application/json"},
                timeout=TIMEOUT_S,
                allow_redirects=False,  # one would take the log to another host, or leave its body behind
            )
        except requests.RequestException as error:
            # What is wrong with a header or an address is a ValueError too, and stays wrong.
            raise Unsent(type(error).__name__, may_retry=not isinstance(error, ValueError)) from None
        if (status := answer.status_code) >= 300:
            raise Unsent(f"status {status}", may_retry=status in (408, 429) or status >= 500)
        if said := _error_in(answer):
            raise Unsent(said, may_retry=False)


def _error_in(answer: requests.Response) -> str:
    try:
        said = answer.json()
    except ValueError:
        return ""
    return str(said["error"]) if isinstance(said, dict) and said.get("error") else ""


def log_of(call: ChatCall, attempt: Attempt) -> Log:
    if isinstance(call, EmbeddingCall):
        attempt = replace(attempt, completion=None)  # vectors are megabytes, and tell nobody anything
    if not call.tenant.share_content:
        attempt = without_content(attempt)
    return Log(_headers(call, attempt), attempt, size_of(attempt.payload, attempt.completion))


def without_content(attempt: Attempt) -> Attempt:
    """Of the request its model and its settings, of the answer how its choices ended: none of what callers wrote."""
    payload = {name: attempt.payload[name] for name in SETTINGS & attempt.payload.keys()}
    payload = {name: value for name, value in payload.items() if isinstance(value, int | float)}
    choices = (attempt.completion or {}).get("choices")
    ends = [
        {name: choice[name] for name in ("index", "finish_reason") if name in choice}
        for choice in (choices if isinstance(choices, list) else ())
        if isinstance(choice, dict)
    ]
    return replace(attempt, payload={"model": attempt.payload.get("model"), **payload}, completion={"choices": ends})


def _headers(call: ChatCall, attempt: Attempt) -> dict[str, str]:
    caller = call.caller
    properties = {
        "Tenant": caller.tenant_id,
        "Customer": caller.customer,
        "Conversation": caller.conversation,
        "Route": str(attempt.reserved.offer.route),
        "Cost": usd_string(attempt.cost_ticks),
        "Requested-Model": caller.requested_model,
        "Call": caller.request_id,
    }
    known = {f"Helicone-Property-{name}": value for name, value in properties.items() if value}
    ids = {"Helicone-User-Id": caller.tenant_id, "Helicone-Request-Id": str(attempt.reserved.id)}
    return {name: _header(value) for name, value in {**ids, **known}.items()}


def _header(value: str) -> str:
    """A header can neither hold every character that a customer's name can, nor begin or end with a space."""
    return EDGES.sub(lambda spaces: "%20" * len(spaces[0]), quote(value, safe=PRINTABLE))


def body_of(attempt: Attempt) -> dict[str, Any]:
    error = {"error": {"code": attempt.code}} if attempt.code else {}
    return {
        "providerRequest": {
            "url": _url_of(attempt),
            "json": dict(attempt.payload),
            "meta": {},
        },
        "providerResponse": {
            "headers": {},
            "status": STATUSES.get(attempt.code, 502) if attempt.code else 200,
            # A stream that broke off has both: why it did, and what came of it.
            "json": {**error, **(_answer(attempt) if attempt.bill else {})},
        },
        "timing": _timing(attempt),
    }


def _url_of(attempt: Attempt) -> str:
    return (attempt.base_url or "https://demo.invalid") + attempt.address


def _answer(attempt: Attempt) -> dict[str, Any]:
    """A chat completion with the usage that was billed; a stream's is put together from what was passed on."""
    completion: Mapping[str, Any] = attempt.completion or {}
    choices = answer_of(completion) if completion.get("events") else completion.get("choices") or []
    usage = attempt.bill.usage if attempt.bill else None
    tokens = (usage.input_tokens, usage.output_tokens) if usage else (0, 0)
    if attempt.address == EmbeddingCall.address:
        counted = {"prompt_tokens": tokens[0], "total_tokens": tokens[0]}
        return {"object": "list", "model": attempt.payload.get("model"), "data": [], "usage": counted}
    return {
        "object": "chat.completion",
        "model": attempt.payload.get("model"),
        "choices": choices,
        "usage": {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens)},
    }


def _timing(attempt: Attempt) -> dict[str, Any]:
    timing: dict[str, Any] = {
        "startTime": _instant(attempt.started_at),
        "endTime": _instant(attempt.ended_at or attempt.started_at),
    }
    if attempt.answered_at is not None:
        timing["timeToFirstToken"] = round((attempt.answered_at - attempt.started_at) * 1000)
    return timing


def _instant(at: float) -> dict[str, int]:
    milliseconds = round(at * 1000)
    return {"seconds": milliseconds // 1000, "milliseconds": milliseconds % 1000}
