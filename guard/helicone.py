"""Helicone: one log an attempt, sent by threads of its own from a bounded queue.

A call only puts its attempt into the queue, which takes microseconds and cannot fail.  While Helicone
is away what is queued waits and is tried again; once the queue is full the newest are dropped, and
counted.  Prompts and answers leave only where the tenant shares them; tokens, costs and times always.
"""

import logging
import threading
from collections.abc import Mapping
from queue import Empty, Full, Queue
from time import monotonic
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import orjson
import requests
from django.conf import settings

from guard.telemetry import Attempt
from tenants.money import usd_string

if TYPE_CHECKING:
    from guard.chat import ChatCall

logger = logging.getLogger(__name__)

MOST_QUEUED = 10_000
THREADS = 4
TIMEOUT_S = (3.0, 10.0)
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 60.0
STOP_S = 5.0
PRINTABLE = "".join(map(chr, range(0x20, 0x7F)))

STATUSES = {"timeout": 408, "rate_limited": 429, "provider_refused_key": 401, "model_not_found": 404, "rejected": 400}
NOT_SENT = frozenset({"circuit_open", "no_provider_key"})
CONTENT = frozenset({"messages", "tools", "functions", "response_format", "prediction", "user", "metadata", "stop"})
"""Fields of a request that say what was said, or who said it."""

Log = tuple[dict[str, str], dict[str, Any]]
"""Headers and body."""


class Unsent(Exception):
    """Helicone did not take a log; `may_retry` where it might later."""

    def __init__(self, message: str, *, may_retry: bool) -> None:
        super().__init__(message)
        self.may_retry = may_retry


class Helicone:
    def __init__(self, base_url: str, api_key: str) -> None:
        self.url, self.api_key = f"{base_url}/custom/v1/log", api_key
        self.queue: Queue[Log] = Queue(MOST_QUEUED)
        self.dropped = 0
        self.stopping = threading.Event()
        self.threads = [threading.Thread(target=self._run, name="helicone", daemon=True) for _ in range(THREADS)]
        for thread in self.threads:
            thread.start()

    def tell(self, call: "ChatCall", attempt: Attempt) -> None:
        """Queue the attempt's log. Neither waits nor raises."""
        if attempt.code in NOT_SENT:
            return
        try:
            self.queue.put_nowait(log_of(call, attempt))
        except Full:
            self.dropped += 1
            if self.dropped.bit_count() == 1:  # the 1st, 2nd, 4th, 8th …
                logger.warning("%d logs for Helicone were dropped: its queue is full", self.dropped)

    def stop(self) -> None:
        """Send what is queued, for a few seconds at most."""
        deadline = monotonic() + STOP_S
        self.stopping.set()
        for thread in self.threads:
            thread.join(max(0.0, deadline - monotonic()))
        if left := self.queue.qsize():
            logger.warning("%d logs for Helicone were not sent before the stop", left)

    def _run(self) -> None:
        with requests.Session() as session:
            while not (self.stopping.is_set() and self.queue.empty()):
                try:
                    log = self.queue.get(timeout=0.2)
                except Empty:
                    continue
                self._send(session, log)

    def _send(self, session: requests.Session, log: Log) -> None:
        wait_s = FIRST_WAIT_S
        while True:
            try:
                self._post(session, log)
            except Unsent as unsent:
                if not unsent.may_retry:
                    logger.warning("Helicone refused a log: %s", unsent)
                    return
                if self.stopping.wait(wait_s):
                    return
                wait_s = min(wait_s * 2, LONGEST_WAIT_S)
            else:
                return

    def _post(self, session: requests.Session, log: Log) -> None:
        """Raises Unsent. Helicone answers 200 to some failures, with an error in the body."""
        headers, body = log
        try:
            answer = session.post(
                self.url,
                data=orjson.dumps(body),
                headers={**headers, "Authorization": f"Bearer {self.api_key}", "Content-Type": "application/json"},
                timeout=TIMEOUT_S,
            )
        except requests.RequestException as error:
            raise Unsent(type(error).__name__, may_retry=True) from None
        if not answer.ok:
            raise Unsent(
                f"status {answer.status_code}", may_retry=answer.status_code in (408, 429) or answer.status_code >= 500
            )
        if said := _error_in(answer):
            raise Unsent(said, may_retry=False)


def _error_in(answer: requests.Response) -> str:
    try:
        said = answer.json()
    except ValueError:
        return ""
    return str(said["error"]) if isinstance(said, dict) and said.get("error") else ""


def log_of(call: "ChatCall", attempt: Attempt) -> Log:
    return _headers(call, attempt), _body(attempt, shares_content=call.tenant.share_content)


def _headers(call: "ChatCall", attempt: Attempt) -> dict[str, str]:
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
    # A header cannot hold every character that a customer's name can.
    return {name: quote(value, safe=PRINTABLE) for name, value in {**ids, **known}.items()}


def _body(attempt: Attempt, *, shares_content: bool) -> dict[str, Any]:
    request = dict(attempt.payload)
    if not shares_content:
        request = {name: value for name, value in request.items() if name not in CONTENT}
    return {
        "providerRequest": {"url": _url_of(attempt.reserved.offer.provider), "json": request, "meta": {}},
        "providerResponse": {
            "headers": {},
            "status": STATUSES.get(attempt.code, 502) if attempt.code else 200,
            "json": {"error": {"code": attempt.code}} if attempt.code else _answer(attempt, shares_content),
        },
        "timing": _timing(attempt),
    }


def _url_of(provider: str) -> str:
    base_urls = {"xai": settings.XAI_BASE_URL, "openai": settings.OPENAI_BASE_URL}
    return f"{base_urls.get(provider, 'https://demo.invalid')}/chat/completions"


def _answer(attempt: Attempt, shares_content: bool) -> dict[str, Any]:
    """A chat completion with the usage that was billed; of its choices only how they ended, unless shared."""
    completion: Mapping[str, Any] = attempt.completion or {}
    choices = completion.get("choices") or []
    if not shares_content:
        choices = [
            {name: choice[name] for name in ("index", "finish_reason") if name in choice}
            for choice in choices
            if isinstance(choice, dict)
        ]
    usage = attempt.bill.usage if attempt.bill else None
    tokens = (usage.input_tokens, usage.output_tokens) if usage else (0, 0)
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
