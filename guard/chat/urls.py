"""The chat paths. `guard.asgi` serves them by a short way; the URLconf has them for the API's schema."""

from typing import Any

from django.urls import path

from guard.chat.endpoints import ChatEndpoint, CompletionsEndpoint

# Coroutine functions, by AsyncAPIView's dispatch, which DRF's types do not know.
CHAT_VIEWS: dict[str, Any] = {
    "/api/chat": ChatEndpoint.as_view(),
    "/v1/chat/completions": CompletionsEndpoint.as_view(),
}

urlpatterns = [path(address.lstrip("/"), view) for address, view in CHAT_VIEWS.items()]
