"""Once a day: ask the providers, sum the ledger, and tell of days on which the two differ."""

import logging
from datetime import UTC, datetime, time, timedelta

from django.conf import settings

from spend.alerts.detection import tell
from spend.models import Alert, AlertKind, InvoiceSource
from spend.reconciliation.differences import Day, days_compared
from spend.reconciliation.ledger_days import sum_days
from spend.reconciliation.lines import take
from spend.reconciliation.provider_reports import ReportError, reports
from tenants.models import Scope
from tenants.periods import Period

ASKED_DAYS = timedelta(days=7)
COMPARED_DAYS = timedelta(days=35)

logger = logging.getLogger(__name__)


def reconcile(now: datetime) -> list[str]:
    """What became of each report. Days whose bill is late are asked for again."""
    today = now.astimezone(UTC).date()
    first = today - ASKED_DAYS
    said = []
    for provider, ask in reports().items():
        try:
            lines = ask(first, today)
        except ReportError as error:
            logger.warning("no report of cost from %s: %s", provider, error)
            said.append(f"{provider}: {error}")
            continue
        days = [first + timedelta(days=number) for number in range(ASKED_DAYS.days + 1)]
        take(provider, lines, days, InvoiceSource.REPORT, now)
        said.append(f"{provider}: {len(lines)} lines")
    compare(now)
    return said


def compare(now: datetime) -> list[Alert]:
    """Sum the ledger's days anew, and tell of the days that differ; each once."""
    today = now.astimezone(UTC).date()
    sum_days(today - COMPARED_DAYS, today)
    days = days_compared(today - COMPARED_DAYS, today)
    return tell([_alert(day, now) for day in days if day.is_to_be_told(today)])


def _alert(day: Day, now: datetime) -> Alert:
    """`limit_ticks` is what is billed, `spent_ticks` what the ledger has. Told anew where what is billed changes."""
    begins = datetime.combine(day.day, time.min, UTC)
    return Alert(
        tenant_id="", scope=Scope.INSTALLATION, subject=f"{day.provider} {day.day}", period=Period.DAY,
        starts_at=begins, ends_at=begins + timedelta(days=1), kind=AlertKind.INVOICE,
        percent=settings.INVOICE_ALERT_PERCENT, limit_ticks=max(0, day.invoiced_ticks),
        spent_ticks=day.ledger_ticks, at=now,
    )  # fmt: skip
