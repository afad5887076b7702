"""What every view of the REST API has in common."""

from typing import Any, ClassVar

from django.db import IntegrityError, InterfaceError, OperationalError
from rest_framework.permissions import SAFE_METHODS, BasePermission
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from guard.api.permissions import IsOperator
from guard.http.authentication import ApiKeyAuthentication, OperatorSession, OperatorTokenAuthentication
from guard.http.errors import InvalidRequest, LedgerUnavailable
from guard.http.request_ids import request_id_of


class ApiView(APIView):
    """Answers in the contract's envelope, and carries the request's id."""

    authentication_classes = [ApiKeyAuthentication, OperatorTokenAuthentication, OperatorSession]
    metadata_class = None
    operator_permissions: ClassVar[dict[str, list[str]]] = {}

    def handle_exception(self, exc: Exception) -> Response:
        if isinstance(exc, OperationalError | InterfaceError):
            exc = LedgerUnavailable("The database does not answer. Nothing was changed.", retry_after_s=1)
        elif isinstance(exc, IntegrityError):
            exc = InvalidRequest("Someone else changed this at the same moment. Read it again, then try again.")
        return super().handle_exception(exc)

    def finalize_response(self, request: Request, response: Response, *args: Any, **kwargs: Any) -> Response:
        response.headers.setdefault("X-Request-Id", request_id_of(request))
        return super().finalize_response(request, response, *args, **kwargs)


class OperatorView(ApiView):
    permission_classes: list[type[BasePermission]] = [IsOperator]

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """No query narrows a change: one that seems to would be ignored, and more be lost than was meant."""
        super().initial(request, *args, **kwargs)
        if request.method not in SAFE_METHODS:
            for name in request.query_params:
                raise InvalidRequest(f"{name}: no query parameter is taken here.", param=name)
