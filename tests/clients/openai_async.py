"""The openai package's async client, unchanged."""

import json
from typing import Any

from common import BASE_URL, KEYS, QUESTION, TOOL, TOOL_QUESTION, get_weather, report
from openai import AsyncOpenAI
from pydantic import BaseModel


def client_of(tenant: str, **options: Any) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=BASE_URL, api_key=KEYS[tenant], **options)


def asking(question: str = QUESTION) -> dict[str, Any]:
    return {"model": "auto", "messages": [{"role": "user", "content": question}]}


async def chat() -> dict[str, Any]:
    answer = await client_of("open").chat.completions.create(**asking())
    return {"content": answer.choices[0].message.content, "model": answer.model}


async def stream() -> dict[str, Any]:
    chunks = await client_of("open").chat.completions.create(**asking(), stream=True)
    seen = [chunk async for chunk in chunks]
    pieces = [chunk.choices[0].delta.content for chunk in seen if chunk.choices[0].delta.content]
    return {"content": "".join(pieces), "pieces": len(pieces), "models": sorted({chunk.model for chunk in seen})}


async def tools() -> dict[str, Any]:
    """With the call of the tool streamed."""
    client, messages = client_of("open"), asking(TOOL_QUESTION)["messages"]
    async with client.chat.completions.stream(model="auto", messages=messages, tools=[TOOL]) as events:
        asked = (await events.get_final_completion()).choices[0].message
    (call,) = asked.tool_calls
    result = get_weather(**json.loads(call.function.arguments))
    messages += [asked, {"role": "tool", "tool_call_id": call.id, "content": result}]
    answer = await client.chat.completions.create(model="auto", messages=messages, tools=[TOOL])
    return {"content": answer.choices[0].message.content}


class Order(BaseModel):
    number: int
    status: str


async def structured() -> dict[str, Any]:
    answer = await client_of("open").chat.completions.parse(**asking(), response_format=Order)
    message = answer.choices[0].message
    return {"parsed": type(message.parsed).__name__, "content": message.content}


async def downgrade() -> dict[str, Any]:
    response = await client_of("soft").chat.completions.with_raw_response.create(**asking())
    return {"model": response.parse().model, "route": response.headers["x-guard-route"]}


async def stop() -> None:
    await client_of("stopped").chat.completions.create(**asking())


async def outage() -> None:
    await client_of("down", max_retries=0).chat.completions.create(**asking())


if __name__ == "__main__":
    report(chat, stream, tools, structured, downgrade, stop, outage)
