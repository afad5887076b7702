"""What every guarded request has: an id, the caller's own where it is a sane token, a line in the log."""

import re
from collections.abc import Mapping

from django.http import HttpRequest

from guard.http.request_log import Line
from spend.ids import new_id

NO_HEADERS: Mapping[str, str] = {}
TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
TRACESTATE = re.compile(r"[ -~]{1,512}")
REQUEST_ID = "guard.request_id"
"""In META, which a DRF request shares with Django's that it wraps. No header can have that name there."""
SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


def request_id_of(request: HttpRequest) -> str:
    """The request's id, the same however often it is asked for."""
    if REQUEST_ID not in request.META:
        given = request.headers.get("X-Request-Id", "")
        request.META[REQUEST_ID] = given if SANE_ID.fullmatch(given) else f"req_{new_id().hex}"
    return str(request.META[REQUEST_ID])


def line_of(request: HttpRequest) -> Line:
    """The request's line in the log, the same however often it is asked for."""
    line: Line | None = getattr(request, "guard_line", None)
    if line is None:
        line = request.guard_line = Line(request_id_of(request))  # type: ignore[attr-defined]
    return line


def context_of(headers: Mapping[str, str]) -> Mapping[str, str]:
    """The W3C context in a request's headers, if it is one."""
    if not TRACEPARENT.fullmatch(parent := headers.get("traceparent", "")):
        return NO_HEADERS
    state = headers.get("tracestate", "")
    return {"traceparent": parent, **({"tracestate": state} if TRACESTATE.fullmatch(state) else {})}
