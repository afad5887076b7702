"""LiteLLM's client, unchanged."""

import json
from typing import Any

import litellm
from common import BASE_URL, KEYS, QUESTION, TOOL, TOOL_QUESTION, get_weather, report


def complete(tenant: str, messages: list[Any] | None = None, **options: Any) -> Any:
    messages = messages or [{"role": "user", "content": QUESTION}]
    return litellm.completion(
        model="openai/auto", messages=messages, api_base=BASE_URL, api_key=KEYS[tenant], **options
    )


def chat() -> dict[str, Any]:
    answer = complete("open")
    return {"content": answer.choices[0].message.content, "model": answer.model}


def stream() -> dict[str, Any]:
    seen = list(complete("open", stream=True))
    pieces = [chunk.choices[0].delta.content for chunk in seen if chunk.choices[0].delta.content]
    return {"content": "".join(pieces), "pieces": len(pieces)}


def tools() -> dict[str, Any]:
    messages: list[Any] = [{"role": "user", "content": TOOL_QUESTION}]
    asked = complete("open", messages, tools=[TOOL]).choices[0].message
    (call,) = asked.tool_calls
    result = get_weather(**json.loads(call.function.arguments))
    messages += [asked, {"role": "tool", "tool_call_id": call.id, "content": result}]
    return {"content": complete("open", messages, tools=[TOOL]).choices[0].message.content}


def downgrade() -> dict[str, Any]:
    return {"model": complete("soft").model}


def stop() -> None:
    complete("stopped")


def outage() -> None:
    complete("down", max_retries=0)


if __name__ == "__main__":
    report(chat, stream, tools, downgrade, stop, outage)
