"""The address of responses. `guard.asgi` serves it by a short way; the URLconf has it for the API's schema."""

from typing import Any

from django.urls import path

from guard.responses.views import ResponsesEndpoint

# A coroutine function, by AsyncAPIView's dispatch, which DRF's types do not know.
RESPONSES_VIEWS: dict[str, Any] = {"/v1/responses": ResponsesEndpoint.as_view()}

urlpatterns = [path(address.lstrip("/"), view) for address, view in RESPONSES_VIEWS.items()]
