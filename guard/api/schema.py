"""What the OpenAPI document says beside the serializers: who may call, and how errors look."""

from collections.abc import Callable
from typing import Any, TypeVar

from drf_spectacular.authentication import SessionScheme
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.utils import OpenApiResponse, extend_schema

from guard.api.serializers import ErrorSerializer

Method = TypeVar("Method", bound=Callable[..., Any])

WHEN = {
    400: "The request is not valid; `param` names the field.",
    401: "No key or token, or it is wrong, revoked or expired.",
    403: "The caller may not do that.",
    404: "There is no such thing.",
    413: "The body is too large.",
    415: "The body is not JSON.",
    503: "The database does not answer.",
}


class ApiKeyScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    target_class = "guard.http.authentication.ApiKeyAuthentication"
    name = "apiKey"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {"type": "http", "scheme": "bearer", "description": "A tenant's API key."}


class OperatorSessionScheme(SessionScheme):  # type: ignore[no-untyped-call]
    target_class = "guard.http.authentication.OperatorSession"
    priority = 0


def require_bodies(result: Any, **_context: Any) -> Any:
    """A method that takes a body needs one; drf-spectacular only says so where a field of it is required."""
    for path in result["paths"].values():
        for operation in path.values():
            if "requestBody" in operation:
                operation["requestBody"]["required"] = True
    return result


def describe(
    operation_id: str,
    summary: str,
    ok: Any,
    *errors: int,
    status: int = 200,
    tag: str,
    request: Any = None,
    error: Any = ErrorSerializer,
    creates: bool = False,
    **more: Any,
) -> Callable[[Method], Method]:
    """Document one method of a view: its answer, and the errors beside those that every call can have.

    One that `creates` answers 201 where there was nothing yet.
    """
    responses = {code: OpenApiResponse(error, WHEN[code]) for code in sorted({401, 403, 503, *errors})}
    decorator: Callable[[Method], Method] = extend_schema(
        operation_id=operation_id,
        summary=summary,
        request=request,
        responses={status: ok or OpenApiResponse(description="Done."), **({201: ok} if creates else {}), **responses},
        tags=[tag],
        **more,
    )
    return decorator
