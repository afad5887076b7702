"""What runs in the background, and how often."""

from datetime import timedelta
from io import StringIO

from django.conf import settings
from django.core.management import call_command
from django.db import connection
from django.utils import timezone
from django_tasks import TaskResultStatus, task
from django_tasks_db.models import DBTaskResult

from spend.alerts import deliveries, weekly
from spend.alerts.detection import look_at_all, look_at_changed
from spend.ledger.leases import expire_reservations
from spend.pricing import learned_bounds, learned_capabilities
from spend.privacy import stored_content
from spend.reconciliation import reconciling
from spend.retention import sqlite_space
from spend.retention.partitions import keep_months
from spend.retention.removal import retain
from spend.schedule import Job, uses_database_queue
from spend.summaries.daily import MarkMovedError, catch_up

FINISHED_TASKS_KEPT = timedelta(days=2)
FAILED_TASKS_KEPT = timedelta(days=30)
LONGEST_TASK = timedelta(hours=2)
LONGEST_RETENTION = timedelta(hours=1)
LONGEST_GIVING_BACK = timedelta(minutes=10)


@task
def expire_holds() -> str:
    """The server's own sweep does this too; here it goes on where no server runs."""
    return f"{expire_reservations()} holds expired"


@task
def roll_up() -> str:
    try:
        until = catch_up(timezone.now())
    except MarkMovedError:
        return "another process sums the same days"
    return f"days are summed through {until:%Y-%m-%d %H:%M} UTC"


@task
def sync_prices() -> str:
    said = StringIO()
    call_command("sync_prices", stdout=said)
    return said.getvalue().strip()


@task
def clear_tasks() -> str:
    """Forget finished tasks, and give up those whose worker died: nothing else would end them."""
    if not uses_database_queue():
        return "the queue is not in the database"
    now, tasks = timezone.now(), DBTaskResult.objects.all()
    lost = tasks.running().filter(started_at__lt=now - LONGEST_TASK)
    given_up = lost.update(status=TaskResultStatus.FAILED, finished_at=now, traceback="Its worker ended before it did.")
    done, _ = tasks.successful().filter(finished_at__lt=now - FINISHED_TASKS_KEPT).delete()
    failed, _ = tasks.failed().filter(finished_at__lt=now - FAILED_TASKS_KEPT).delete()
    return f"{given_up} given up, {done + failed} forgotten"


@task
def retain_entries() -> str:
    """What is not done within the hour is done the next day."""
    if settings.ENTRIES_KEPT_DAYS is None:
        return "entries are kept for ever"
    removed = retain(timezone.now(), settings.ENTRIES_KEPT_DAYS, LONGEST_RETENTION.total_seconds())
    return f"{removed['calls']} calls and {removed['entries']} entries removed"


@task
def keep_ledger_months() -> str:
    kept = keep_months(timezone.now())
    return f"{len(kept.made)} months made, {len(kept.dropped)} dropped, {len(kept.busy)} busy"


@task
def forget_content() -> str:
    return f"what was said in {stored_content.forget(timezone.now())} calls is forgotten"


@task
def forget_alerts() -> str:
    now = timezone.now()
    return f"{deliveries.forget(now) + weekly.forget(now)} alerts, deliveries and summaries are forgotten"


@task
def give_room_back() -> str:
    if connection.vendor != "sqlite":
        return "Postgres vacuums by itself"
    if not sqlite_space.gives_back():
        return "the file was made without auto_vacuum: run manage.py vacuum once"
    return f"{sqlite_space.give_back(LONGEST_GIVING_BACK.total_seconds()):,} bytes given back"


@task
def forget_lessons() -> str:
    return f"what {len(learned_capabilities.forget(timezone.now()))} models refused long ago is forgotten"


def forget_allowances() -> str:
    return f"what was learned of {len(learned_bounds.forget(timezone.now()))} models' input is forgotten"


@task
def reconcile() -> str:
    return "; ".join(reconciling.reconcile(timezone.now())) or "compared; no provider's report is asked for"


@task
def owe_summaries() -> str:
    return f"{weekly.owe(timezone.now())} weekly summaries are due"


@task
def look_at_budgets() -> str:
    return f"{len(look_at_all(timezone.now()))} alerts"


def alert() -> None:
    """Quick, and done by the beat itself: a task every other second would fill the queue's log."""
    now = timezone.now()
    look_at_changed(now)
    deliveries.dispatch(now)
    weekly.dispatch(now)


JOBS = [
    Job("alert", timedelta(seconds=2), alert),
    Job("look at budgets", timedelta(minutes=1), look_at_budgets),
    Job("expire holds", timedelta(minutes=1), expire_holds),
    Job("roll up", timedelta(minutes=5), roll_up),
    Job("weekly summaries", timedelta(minutes=5), owe_summaries),
    Job("sync prices", timedelta(days=1), sync_prices),
    Job("retain entries", timedelta(days=1), retain_entries),
    Job("forget alerts", timedelta(days=1), forget_alerts),
    Job("give room back", timedelta(days=1), give_room_back),
    Job("keep ledger months", timedelta(hours=1), keep_ledger_months),
    Job("clear tasks", timedelta(hours=1), clear_tasks),
    Job("reconcile", timedelta(days=1), reconcile),
    Job("forget allowances", timedelta(days=1), forget_allowances),
    Job("forget lessons", timedelta(days=1), forget_lessons),
    Job("forget content", timedelta(hours=1), forget_content),
]
