"""What clients ask of a response by its id: none is kept here, which is said in plain words."""

from typing import Any, NoReturn

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request

from guard.api.base import ApiView
from guard.api.permissions import IsAgent
from guard.http.errors import NotFound

NONE_IS_KEPT = "There is no such response: the guard keeps none. What it answered is the whole of it; store is false."


@extend_schema(exclude=True)
class KeptResponseView(ApiView):
    """`GET` and `DELETE /v1/responses/{id}`, its `input_items`, and `POST …/cancel`."""

    permission_classes = [IsAgent]

    def get(self, request: Request, **_path: Any) -> NoReturn:
        raise NotFound(NONE_IS_KEPT)

    delete = post = get
