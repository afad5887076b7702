"""What the scripts of the clients share. They run in an environment of their own, without the guard's code.

A script tries each of its scenarios against the guard at GUARD_URL and prints what the client saw, as JSON,
in its last line.
GUARD_KEYS has the keys of five tenants: `open` has money, `keeps` too, and keeps what is said, `soft` is past its
soft cap, `stopped` at its hard cap, and the providers of `down` are.
"""

import asyncio
import inspect
import json
import os
from collections.abc import Callable
from typing import Any

BASE_URL = os.environ["GUARD_URL"] + "/v1"
KEYS: dict[str, str] = json.loads(os.environ["GUARD_KEYS"])

QUESTION = "Where is my parcel?"
TOOL_QUESTION = "Please get weather for Oslo."
WEATHER = "sunny, 7 degrees"


def get_weather(city: str) -> str:
    """The weather in a city."""
    return WEATHER


TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def seen_in(error: BaseException) -> dict[str, Any]:
    """The error as the client's user sees it: its class, status and code."""
    body = getattr(error, "body", None)
    inner = body.get("error", body) if isinstance(body, dict) else {}
    code = getattr(error, "code", None) or inner.get("code")
    return {"error": type(error).__name__, "status": getattr(error, "status_code", None), "code": code}


def report(*scenarios: Callable[[], Any]) -> None:
    """Run the scenarios, each a function named after what it tries; an error is what was seen, too."""
    seen: dict[str, Any] = {}

    async def run_all() -> None:
        for scenario in scenarios:
            try:
                result = scenario()
                seen[scenario.__name__] = await result if inspect.isawaitable(result) else result
            except Exception as error:  # noqa: BLE001
                seen[scenario.__name__] = seen_in(error) | {"message": str(error)}

    asyncio.run(run_all())
    print("\n" + json.dumps(seen))  # on a line of its own: some clients have things to say, too
