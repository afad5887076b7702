"""What every guarded request has: an id, the caller's own where it is a sane token."""

import re

from django.http import HttpRequest

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
