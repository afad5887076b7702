"""The address of embeddings. `guard.asgi` serves it by a short way; the URLconf has it for the API's schema."""

from typing import Any

from django.urls import path

from guard.embeddings.views import EmbeddingsEndpoint

# A coroutine function, by AsyncAPIView's dispatch, which DRF's types do not know.
EMBEDDINGS_VIEWS: dict[str, Any] = {"/v1/embeddings": EmbeddingsEndpoint.as_view()}

urlpatterns = [path(address.lstrip("/"), view) for address, view in EMBEDDINGS_VIEWS.items()]
