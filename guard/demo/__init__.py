"""The demo provider: it stands in where no provider key is set, and plays the providers in tests and benches.

It speaks OpenAI's chat completions API at `/v1/chat/completions`, its Responses API at `/v1/responses` and
`/v1/models`, as bare ASGI, and needs neither Django nor its settings.  Every answer of its own is labelled as a demo.
"""

from guard.demo.app import create_app
from guard.demo.serving import serve_on_loopback

__all__ = ["create_app", "serve_on_loopback"]
