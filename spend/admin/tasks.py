"""The background, to look at: what is queued, running, done and failed, and what is due when."""

from collections.abc import Sequence
from typing import Any, ClassVar

from django.contrib import admin
from django.contrib.messages import success
from django.db.models import QuerySet
from django.http import HttpRequest
from django_tasks import TaskResultStatus
from django_tasks_db.models import DBTaskResult
from unfold.decorators import action, display
from unfold.paginator import InfinitePaginator

from spend.models import Schedule
from tenants.admin import ReadOnly
from tenants.admin.declared_filters import ModelAdmin

STATUS_COLOURS = {"READY": "info", "RUNNING": "warning", "FAILED": "danger", "SUCCESSFUL": "success"}

admin.site.unregister(DBTaskResult)


@admin.register(DBTaskResult)
class TaskAdmin(ReadOnly, ModelAdmin):
    list_display: ClassVar = ["task_name", "state", "enqueued_at", "started_at", "finished_at", "outcome"]
    list_filter: ClassVar = ["status", "queue_name"]
    ordering: ClassVar = ["-enqueued_at"]
    fields: ClassVar = [
        "task_path", "status", "queue_name", "args_kwargs", "enqueued_at", "started_at", "finished_at",
        "return_value", "exception_class_path", "traceback",
    ]  # fmt: skip
    actions: ClassVar = ["run_again"]
    paginator = InfinitePaginator
    show_full_result_count = False

    @display(description="Status", label=STATUS_COLOURS)
    def state(self, result: DBTaskResult[Any, Any]) -> str:
        return str(result.status)

    @display(description="Outcome")
    def outcome(self, result: DBTaskResult[Any, Any]) -> str:
        said = result.traceback.strip().splitlines()[-1:] if result.traceback else [result.return_value or ""]
        return " ".join(map(str, said))

    def has_run_again_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("tenants.change_tenant")

    @action(description="Run again", permissions=["run_again"])
    def run_again(self, request: HttpRequest, queryset: QuerySet[DBTaskResult[Any, Any]]) -> None:
        failed = list(queryset.filter(status=TaskResultStatus.FAILED))
        for result in failed:
            result.task.using(run_after=None).enqueue(*result.args_kwargs["args"], **result.args_kwargs["kwargs"])
        success(request, f"{len(failed)} queued again.")


@admin.register(Schedule)
class ScheduleAdmin(ReadOnly, ModelAdmin):
    list_display: Sequence[str] = ["job", "started_at", "due_at"]
    fields: Sequence[str] = ["job", "started_at", "due_at"]
