"""What was spent."""

from collections.abc import Mapping
from datetime import date, datetime, time
from typing import Any
from zoneinfo import ZoneInfo

from django.shortcuts import get_object_or_404
from rest_framework.request import Request
from rest_framework.response import Response

from guard.api.base import ApiView
from guard.api.permissions import IsAgentOrOperator, permissions_on
from guard.api.schema import describe
from guard.api.serializers import SpendQuerySerializer, SpendSerializer
from guard.http.authentication import Agent
from guard.http.errors import Forbidden, InvalidRequest
from spend import replica
from spend.summaries.removed import RemovedError
from spend.summaries.reports import GroupBy, Report, Selection, Sums, report
from tenants.models import Tenant
from tenants.periods import Period, bounds

UTC_ZONE = ZoneInfo("UTC")


class SpendView(ApiView):
    """For an agent its own tenant's; for an operator one tenant's, or everyone's, with days in UTC."""

    permission_classes = [IsAgentOrOperator]
    operator_permissions = permissions_on("tenant")

    @describe("getSpend", "What was spent", SpendSerializer, 400, 404, parameters=[SpendQuerySerializer], tag="spend")
    def get(self, request: Request) -> Response:
        query = read_query(request)
        tenant = whose(request, query.get("tenant_id"))
        group_by = GroupBy(query["group_by"]) if "group_by" in query else None
        made, headers = replica.read(lambda: dated_report(selection_of(query, tenant), group_by))
        is_hidden = isinstance(request.user, Agent) and request.user.tenant.hide_money
        body = SpendSerializer(body_of(made, group_by), context={"hide_money": is_hidden}).data
        return Response(body, headers=headers)


def read_query(request: Request) -> dict[str, Any]:
    """What is given; `from=` is as good as no `from`, as clients write what they leave empty."""
    for name, values in request.query_params.lists():
        if len(values) > 1:
            raise InvalidRequest(f"{name}: is given twice.", param=name)
    given = {name: value for name, value in request.query_params.items() if value}
    serializer = SpendQuerySerializer(data=given)
    serializer.is_valid(raise_exception=True)
    return dict(serializer.validated_data)


def dated_report(selection: Selection, group_by: GroupBy | None) -> tuple[Report, dict[str, str]]:
    """With the headers that say how old it is, where it is read from a replica."""
    return made_report(selection, group_by), replica.source().headers


def made_report(selection: Selection, group_by: GroupBy | None) -> Report:
    try:
        return report(selection, group_by)
    except RemovedError as error:
        day = error.before.astimezone(selection.zone).date()
        raise InvalidRequest(
            f"from: single calls before {day} were removed; their sums are kept, by whole days and models.",
            param="from",
        ) from None


def whose(request: Request, tenant_id: str | None) -> Tenant | None:
    """The tenant asked for; None is every one. An agent learns of no other tenant, not even whether it exists."""
    if isinstance(request.user, Agent):
        if tenant_id not in (None, request.user.tenant.id):
            raise Forbidden("This key belongs to another tenant.")
        return request.user.tenant
    return None if tenant_id is None else get_object_or_404(Tenant, pk=tenant_id)


def selection_of(query: Mapping[str, Any], tenant: Tenant | None) -> Selection:
    zone = tenant.zone if tenant else UTC_ZONE
    starts_at, ends_at = edge(query, "from_", zone), edge(query, "to", zone)
    is_empty = starts_at == ends_at and query.get("from_") != query.get("to")  # two days the wrong way round
    if starts_at and ends_at and (starts_at > ends_at or is_empty):
        raise InvalidRequest("to: must not be before from.", param="to")
    return Selection(tenant.id if tenant else None, starts_at, ends_at, zone)


def edge(query: Mapping[str, Any], name: str, zone: ZoneInfo) -> datetime | None:
    """An instant as given; of a day in `zone` the start for `from_`, the end for `to`."""
    given: date | datetime | None = query.get(name)
    if given is None or isinstance(given, datetime):
        return given
    try:
        day = bounds(Period.DAY, zone, datetime.combine(given, time(12), tzinfo=zone))
    except OverflowError:
        param = name.rstrip("_")
        raise InvalidRequest(f"{param}: is out of range.", param=param) from None
    return day.ends_at if name == "to" else day.starts_at


def body_of(made: Report, group_by: GroupBy | None) -> dict[str, Any]:
    return {
        **vars(made.totals),
        "models_used": made.calls_by_model,
        "groups": [group_body(key, sums) for key, sums in made.groups.items()],
        "groups_omitted": made.groups_omitted,
    }


def group_body(key: tuple[Any, ...], sums: Sums) -> dict[str, Any]:
    value, *tenant_id = key
    return {
        "group": str(value) if value else None,
        **({"tenant_id": tenant_id[0]} if tenant_id else {}),
        **vars(sums),
    }
