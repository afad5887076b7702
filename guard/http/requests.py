"""What every guarded request has: an id, the caller's own where it is a sane token, and a line in the log."""

import re

from django.http import HttpRequest

from guard.telemetry.telemetry import Line
from spend.ids import new_id

SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


def request_id_of(request: HttpRequest) -> str:
    """The request's id, the same however often it is asked for."""
    raw: HttpRequest = getattr(request, "_request", request)  # a DRF request wraps Django's
    if not (request_id := getattr(raw, "guard_request_id", None)):
        given = raw.headers.get("X-Request-Id", "")
        request_id = given if SANE_ID.fullmatch(given) else f"req_{new_id().hex}"
        raw.guard_request_id = request_id  # type: ignore[attr-defined]
    return str(request_id)


def line_of(request: HttpRequest) -> Line:
    """The request's line in the log, the same however often it is asked for."""
    line: Line | None = getattr(request, "guard_line", None)
    if line is None:
        line = request.guard_line = Line(request_id_of(request))  # type: ignore[attr-defined]
    return line
