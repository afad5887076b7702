"""How an alert is put into words, and how it is sent to each kind of channel. What goes wrong is UndeliveredError."""

import asyncio
import hashlib
import hmac
import html
import time
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import httpx2
import orjson
from django.core.mail import EmailMessage

from spend.alerts.checked_transport import CheckedTransport
from spend.alerts.links import link_of
from spend.models import Alert, AlertKind
from tenants.models import AlertChannel, ChannelKind, Scope, Tenant
from tenants.money import usd_rounded, usd_string
from tenants.periods import Period
from tenants.targets import TargetError

DEADLINE_S = 15.0
HTTP_OK, HTTP_REDIRECTS = range(200, 300), range(300, 400)


class UndeliveredError(Exception):
    """The channel did not take it; the message says why, without the address, which may be a secret."""


def send(alert: Alert, channel: AlertChannel, delivery_id: int) -> None:
    """Send `alert` to `channel`. Raises UndeliveredError."""
    senders: dict[str, Callable[[Alert, AlertChannel, int], None]] = {
        ChannelKind.EMAIL: _send_email,
        ChannelKind.SLACK: _send_slack,
        ChannelKind.WEBHOOK: _send_webhook,
    }
    senders[channel.kind](alert, channel, delivery_id)


def _send_email(alert: Alert, channel: AlertChannel, delivery_id: int) -> None:
    text = "\n\n".join(filter(None, [text_of(alert), link_of(alert)]))
    message = EmailMessage(subject_of(alert), text, to=channel.addresses)
    try:
        message.send()
    except OSError as error:  # every error of smtplib is one, and a broken connection too
        raise UndeliveredError(str(error) or type(error).__name__) from None


def _send_slack(alert: Alert, channel: AlertChannel, delivery_id: int) -> None:
    # Slack reads <!channel> and <https://…|pay here> as markup, and a customer may be called so.
    lines = filter(None, [f"*{subject_of(alert)}*", text_of(alert), link_of(alert)])
    text = html.escape("\n".join(lines), quote=False)
    post(channel.target, orjson.dumps({"text": text}), {})


def _send_webhook(alert: Alert, channel: AlertChannel, delivery_id: int) -> None:
    body, timestamp = orjson.dumps(body_of(alert)), str(int(time.time()))
    headers = {
        "X-Guard-Delivery": str(delivery_id),
        "X-Guard-Timestamp": timestamp,
        "X-Guard-Signature": f"sha256={signature_of(channel.secret, timestamp, body)}",
    }
    post(channel.target, body, headers)


def signature_of(secret: str, timestamp: str, body: bytes) -> str:
    """HMAC-SHA256 over `timestamp.body`, in hex: the timestamp is signed too, so an old alert can't be replayed."""
    return hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


def post(url: str, body: bytes, headers: dict[str, str], within_s: float = DEADLINE_S) -> None:
    """Send `body`; nothing of the answer is read but its status. Raises UndeliveredError.

    The deadline is for all of it: a server that answers a byte now and then cannot keep its sender busy.
    """
    sent = {"Content-Type": "application/json", "User-Agent": "guard", **headers}
    try:
        status = asyncio.run(_status_of(url, body, sent, within_s))
    except TargetError as error:
        raise UndeliveredError(str(error)) from None
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
        raise UndeliveredError(type(error).__name__) from None
    if status in HTTP_REDIRECTS:
        raise UndeliveredError(f"answered {status}, which sends elsewhere, and that is not followed")
    if status not in HTTP_OK:
        raise UndeliveredError(f"answered {status}")


async def _status_of(url: str, body: bytes, headers: dict[str, str], within_s: float) -> int:
    async with (
        asyncio.timeout(within_s),
        httpx2.AsyncClient(transport=CheckedTransport(), timeout=within_s, follow_redirects=False) as client,
        client.stream("POST", url, content=body, headers=headers) as answer,
    ):
        return answer.status_code


def subject_of(alert: Alert) -> str:
    whose = name_of(alert)
    if alert.kind == AlertKind.FORECAST:
        return f"{whose}: the {_period_of(alert)} budget runs out early at this rate"
    if alert.kind == AlertKind.SPIKE:
        return f"{whose}: this hour's spend is over three times the usual"
    if alert.kind == AlertKind.HANDED_OFF:
        return f"{whose}: handed off to a person"
    if alert.kind == AlertKind.INVOICE:
        return f"The bill and the ledger differ: {alert.subject}"
    return f"{whose}: {alert.percent} % of the {_period_of(alert)} budget is used"


def text_of(alert: Alert, zone: ZoneInfo | None = None) -> str:
    """In the tenant's own `zone`, as its people read it; who has many alerts asks `zones_of` once."""
    zone = zone or zones_of([alert])[alert.tenant_id]
    spent = f"{usd_rounded(alert.spent_ticks, places=4)} USD"
    when = f"As of {_clock(alert.at, zone)} {zone.key}."
    reset = f" A new period starts on {_clock(alert.ends_at, zone)}." if alert.ends_at else ""
    if alert.kind == AlertKind.HANDED_OFF:
        return f"A budget is spent, so the tenant's own words were given in place of an answer. {when}{reset}"
    if alert.kind == AlertKind.INVOICE:
        billed = f"{usd_rounded(alert.limit_ticks, places=4)} USD"
        return f"The provider bills {billed} for that day, in UTC; the ledger has {spent} of it. {when}"
    if alert.kind == AlertKind.SPIKE:
        return f"{spent} were spent since the hour began. {when}"
    limit = f"{usd_rounded(alert.limit_ticks, places=4)} USD"
    # A budget that refuses calls is told as used up before its last tick is spent.
    rest = " Calls that need more than what is left are refused." if _is_refusing(alert) else ""
    return f"{spent} of {limit} are spent.{rest} {when}{reset}"


def _is_refusing(alert: Alert) -> bool:
    return alert.percent == 100 and alert.spent_ticks < alert.limit_ticks


def body_of(alert: Alert) -> dict[str, Any]:
    """The webhook's JSON."""
    return {
        "id": str(UUID(str(alert.pk))),
        "kind": str(alert.kind),
        "tenantId": alert.tenant_id or None,
        "scope": str(alert.scope),
        "scopeId": alert.subject or alert.tenant_id or None,
        "period": str(alert.period),
        "startsAt": alert.starts_at.isoformat(),
        "resetsAt": alert.ends_at and alert.ends_at.isoformat(),
        "percent": alert.percent or None,
        "limitUsd": usd_string(alert.limit_ticks) if alert.limit_ticks else None,
        "spentUsd": None if alert.kind == AlertKind.HANDED_OFF else usd_string(alert.spent_ticks),
        "at": alert.at.isoformat(),
        "message": f"{subject_of(alert)}. {text_of(alert)}",
        "url": link_of(alert) or None,
    }


def name_of(alert: Alert) -> str:
    if alert.scope == Scope.INSTALLATION:
        return "The whole installation"
    return f"{alert.tenant_id}, {alert.scope} {alert.subject}" if alert.subject else alert.tenant_id


def _period_of(alert: Alert) -> str:
    names = {Period.DAY: "daily", Period.WEEK: "weekly", Period.MONTH: "monthly", Period.TOTAL: "total"}
    return names[Period(alert.period)]


def zones_of(alerts: Iterable[Alert]) -> dict[str, ZoneInfo]:
    """By tenant's id; UTC for the installation, which has none, and for a tenant that is gone."""
    ids = {alert.tenant_id for alert in alerts}
    known = Tenant.objects.in_bulk(ids)
    return {each: known[each].zone if each in known else ZoneInfo("UTC") for each in ids}


def _clock(at: datetime, zone: ZoneInfo) -> str:
    return f"{at.astimezone(zone):%Y-%m-%d %H:%M}"
