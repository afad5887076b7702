"""The openai package, unchanged."""

import json
from typing import Any

from common import BASE_URL, KEYS, QUESTION, TOOL, TOOL_QUESTION, get_weather, report
from openai import OpenAI
from pydantic import BaseModel


def client_of(tenant: str, **options: Any) -> OpenAI:
    return OpenAI(base_url=BASE_URL, api_key=KEYS[tenant], **options)


def asking(question: str = QUESTION) -> dict[str, Any]:
    return {"model": "auto", "messages": [{"role": "user", "content": question}]}


def chat() -> dict[str, Any]:
    answer = client_of("open").chat.completions.create(**asking(), user="ann", metadata={"conversation_id": "c-1"})
    return {"content": answer.choices[0].message.content, "model": answer.model}


def stream() -> dict[str, Any]:
    with client_of("open").chat.completions.create(
        **asking(), stream=True, stream_options={"include_usage": True}
    ) as chunks:
        seen = list(chunks)
    pieces = [chunk.choices[0].delta.content for chunk in seen if chunk.choices and chunk.choices[0].delta.content]
    usage = [chunk.usage for chunk in seen if chunk.usage]
    return {"content": "".join(pieces), "pieces": len(pieces), "models": sorted({chunk.model for chunk in seen}),
            "output_tokens": usage[0].completion_tokens}  # fmt: skip


def stream_helper() -> dict[str, Any]:
    with client_of("open").chat.completions.stream(**asking()) as events:
        answer = events.get_final_completion()
    return {"content": answer.choices[0].message.content, "model": answer.model}


def tools() -> dict[str, Any]:
    client, messages = client_of("open"), asking(TOOL_QUESTION)["messages"]
    asked = client.chat.completions.create(model="auto", messages=messages, tools=[TOOL]).choices[0].message
    (call,) = asked.tool_calls
    result = get_weather(**json.loads(call.function.arguments))
    messages += [asked, {"role": "tool", "tool_call_id": call.id, "content": result}]
    answer = client.chat.completions.create(model="auto", messages=messages, tools=[TOOL])
    return {"content": answer.choices[0].message.content}


class Order(BaseModel):
    number: int
    status: str


def structured() -> dict[str, Any]:
    answer = client_of("open").chat.completions.parse(**asking(), response_format=Order)
    parsed = answer.choices[0].message
    again = client_of("open").chat.completions.create(
        model="auto", messages=[*asking()["messages"], parsed, {"role": "user", "content": "Thanks!"}]
    )
    return {"parsed": type(parsed.parsed).__name__, "content": again.choices[0].message.content}


def raw() -> dict[str, Any]:
    response = client_of("open").chat.completions.with_raw_response.create(**asking())
    return {"headers": dict(response.headers), "content": response.parse().choices[0].message.content}


def models() -> dict[str, Any]:
    return {"models": sorted(model.id for model in client_of("open").models.list())}


def embeddings() -> dict[str, Any]:
    """As the package asks: by base64, which it reads."""
    client = client_of("open")
    answers = [
        client.embeddings.create(model="vectors", input=given, dimensions=8)
        for given in (QUESTION, [QUESTION, "And mine?"], [1, 2, 3], [[1, 2], [3]])
    ]
    return {"dimensions": [len(each.embedding) for answer in answers for each in answer.data]}


def downgrade() -> dict[str, Any]:
    response = client_of("soft").chat.completions.with_raw_response.create(**asking())
    return {"model": response.parse().model, "route": response.headers["x-guard-route"]}


def stop() -> None:
    client_of("stopped").chat.completions.create(**asking())


def stop_stream() -> None:
    client_of("stopped").chat.completions.create(**asking(), stream=True)


def outage() -> None:
    client_of("down", max_retries=0).chat.completions.create(**asking())


if __name__ == "__main__":
    report(
        chat, stream, stream_helper, tools, structured, raw, models, embeddings, downgrade, stop, stop_stream, outage
    )
