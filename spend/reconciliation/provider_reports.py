"""The providers' own reports of cost, asked with a key for administration, which no call goes out on.

OpenAI: `GET /v1/organization/costs`, by day and line item. xAI: `POST /v1/billing/teams/{team}/usage` of its management
API, by day and description. Both are in UTC and in USD.
"""

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from django.conf import settings

from spend.models import OPENAI, XAI
from spend.reconciliation.lines import Line, ticks_of

WAIT_S = (5, 30)
"""To connect, and between two bytes."""
MOST_PAGES = 100


class ReportError(Exception):
    """The report can't be had; the message says why, with no key in it."""


def ask_openai(first: date, last: date) -> list[Line]:
    """The costs of these days, the last included. Raises ReportError."""
    asked = {"start_time": _seconds(first), "end_time": _seconds(last + timedelta(days=1)), "bucket_width": "1d"}
    asked |= {"limit": 180, "group_by": "line_item", **_projects()}
    return _read(_openai_lines, asked)


def _projects() -> dict[str, list[str]]:
    """Only those that the guard's keys belong to, where OPENAI_PROJECT_IDS names them."""
    return {"project_ids": settings.OPENAI_PROJECT_IDS} if settings.OPENAI_PROJECT_IDS else {}


def _openai_lines(asked: dict[str, Any]) -> Iterator[Line]:
    headers = {"Authorization": f"Bearer {settings.OPENAI_ADMIN_KEY}"}
    for _ in range(MOST_PAGES):
        page = _answer("GET", f"{settings.OPENAI_COSTS_URL}/organization/costs", headers, params=asked)
        for bucket in page["data"]:
            day = datetime.fromtimestamp(int(bucket["start_time"]), UTC).date()
            for result in bucket["results"]:
                if result["amount"]["currency"].lower() != "usd":
                    raise ReportError("the report is not in USD")
                yield Line(day, result.get("line_item") or "", ticks_of(Decimal(result["amount"]["value"])))
        if not page.get("has_more"):
            return
        asked = {**asked, "page": page["next_page"]}
    raise ReportError("the report has no end")


def ask_xai(first: date, last: date) -> list[Line]:
    """As `ask_openai`."""
    asked = {
        "timeRange": {"startTime": f"{first} 00:00:00", "endTime": f"{last} 23:59:59", "timezone": "Etc/GMT"},
        "timeUnit": "TIME_UNIT_DAY",
        "values": [{"name": "usd", "aggregation": "AGGREGATION_SUM"}],
        "groupBy": ["description"],
        "filters": [],
    }
    return _read(_xai_lines, asked)


def _xai_lines(asked: dict[str, Any]) -> Iterator[Line]:
    headers = {"Authorization": f"Bearer {settings.XAI_MANAGEMENT_KEY}"}
    url = f"{settings.XAI_MANAGEMENT_URL}/billing/teams/{settings.XAI_TEAM_ID}/usage"
    answer = _answer("POST", url, headers, json={"analyticsRequest": asked})
    if answer.get("limitReached"):
        raise ReportError("the report is cut off: it has more lines than xAI gives at once")
    for series in answer["timeSeries"]:
        for point in series["dataPoints"]:
            day = datetime.fromisoformat(point["timestamp"]).astimezone(UTC).date()
            yield Line(day, " ".join(series["group"]), ticks_of(Decimal(point["values"][0])))


def _read(lines_of: Callable[[dict[str, Any]], Iterator[Line]], asked: dict[str, Any]) -> list[Line]:
    try:
        return list(lines_of(asked))
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError) as error:
        raise ReportError(f"the report has another shape than is known ({type(error).__name__})") from error


def _answer(method: str, url: str, headers: dict[str, str], **asked: Any) -> Any:
    """The JSON, its numbers exact. Raises ReportError."""
    import requests  # once a day: no other process of ours pays for it

    try:
        answer = requests.request(method, url, headers=headers, timeout=WAIT_S, allow_redirects=False, **asked)
    except requests.RequestException as error:
        raise ReportError(f"it can't be reached ({type(error).__name__})") from None
    if answer.status_code in {401, 403}:
        raise ReportError(f"it refuses the key for administration ({answer.status_code})")
    if answer.status_code != 200:
        raise ReportError(f"it answered {answer.status_code}")
    return answer.json(parse_float=Decimal, parse_int=Decimal)


def _seconds(day: date) -> int:
    return int(datetime.combine(day, time.min, UTC).timestamp())


def reports() -> dict[str, Callable[[date, date], list[Line]]]:
    """By provider, of which the settings have a key for administration."""
    found: dict[str, Callable[[date, date], list[Line]]] = {}
    if settings.OPENAI_ADMIN_KEY:
        found[OPENAI] = ask_openai
    if settings.XAI_MANAGEMENT_KEY and settings.XAI_TEAM_ID:
        found[XAI] = ask_xai
    return found
