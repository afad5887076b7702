"""Whether the guard can work."""

from time import monotonic

from django.db import DatabaseError, InterfaceError
from rest_framework.request import Request
from rest_framework.response import Response

from guard import __version__
from guard.api.base import ApiView
from guard.api.schema import describe
from guard.api.serializers import HealthSerializer
from tenants.models import Revision

STARTED_S = monotonic()


class HealthView(ApiView):
    """For load balancers: no key, no detail."""

    authentication_classes = []
    permission_classes = []

    @describe("getHealth", "Whether the guard can work", HealthSerializer, tag="health", auth=[])
    def get(self, request: Request) -> Response:
        database = "ok" if database_answers() else "unavailable"
        body = {
            "status": database,
            "uptime": int(monotonic() - STARTED_S),
            "database": database,
            "version": __version__,
        }
        return Response(body, status=200 if database == "ok" else 503)


def database_answers() -> bool:
    """Reads the row that every worker polls: a database that was never migrated is no use either."""
    try:
        Revision.current()
    except (DatabaseError, InterfaceError):
        return False
    return True
