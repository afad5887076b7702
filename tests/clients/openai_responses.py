"""The openai package's Responses API, unchanged."""

import json
from typing import Any

from common import BASE_URL, KEYS, QUESTION, TOOL, TOOL_QUESTION, get_weather, report
from openai import OpenAI
from pydantic import BaseModel

FUNCTION = {"type": "function", **TOOL["function"]}


def client_of(tenant: str, **options: Any) -> OpenAI:
    return OpenAI(base_url=BASE_URL, api_key=KEYS[tenant], **options)


def chat() -> dict[str, Any]:
    answer = client_of("open").responses.create(model="auto", input=QUESTION, user="ann")
    return {"content": answer.output_text, "model": answer.model}


def stream() -> dict[str, Any]:
    with client_of("open").responses.create(model="auto", input=QUESTION, stream=True) as events:
        seen = list(events)
    pieces = [event.delta for event in seen if event.type == "response.output_text.delta"]
    return {"content": "".join(pieces), "pieces": len(pieces), "models": [seen[-1].response.model]}


def stream_helper() -> dict[str, Any]:
    with client_of("open").responses.stream(model="auto", input=QUESTION) as events:
        answer = events.get_final_response()
    return {"content": answer.output_text, "model": answer.model}


def tools() -> dict[str, Any]:
    client, items = client_of("open"), [{"role": "user", "content": TOOL_QUESTION}]
    asked = client.responses.create(model="auto", input=items, tools=[FUNCTION])
    (call,) = asked.output
    result = get_weather(**json.loads(call.arguments))
    items += [*asked.output, {"type": "function_call_output", "call_id": call.call_id, "output": result}]
    return {"content": client.responses.create(model="auto", input=items, tools=[FUNCTION]).output_text}


class Order(BaseModel):
    number: int
    status: str


def structured() -> dict[str, Any]:
    client = client_of("open")
    answer = client.responses.parse(model="auto", input=QUESTION, text_format=Order)
    again = client.responses.create(
        model="auto",
        input=[{"role": "user", "content": QUESTION}, *answer.output, {"role": "user", "content": "Thanks"}],
    )
    return {"parsed": type(answer.output_parsed).__name__, "content": again.output_text}


def memory() -> dict[str, Any]:
    """A tool's result that says nothing of the call, then a stream; the history is the guard's."""
    client = client_of("keeps")
    asked = client.responses.create(model="auto", input=TOOL_QUESTION, tools=[FUNCTION])
    (call,) = asked.output
    result = {"type": "function_call_output", "call_id": call.call_id, "output": get_weather("Oslo")}
    answer = client.responses.create(model="auto", input=[result], tools=[FUNCTION], previous_response_id=asked.id)
    with client.responses.stream(model="auto", input=QUESTION, previous_response_id=answer.id) as events:
        last = events.get_final_response()
    kept = client.responses.retrieve(last.id)
    items = client.responses.input_items.list(answer.id)
    client.responses.delete(last.id)
    return {"content": answer.output_text, "again": kept.output_text, "items": [item.type for item in items]}


def downgrade() -> dict[str, Any]:
    response = client_of("soft").responses.with_raw_response.create(model="auto", input=QUESTION)
    return {"model": response.parse().model, "route": response.headers["x-guard-route"]}


def stop() -> None:
    client_of("stopped").responses.create(model="auto", input=QUESTION)


def stop_stream() -> None:
    client_of("stopped").responses.create(model="auto", input=QUESTION, stream=True)


def outage() -> None:
    client_of("down", max_retries=0).responses.create(model="auto", input=QUESTION)


if __name__ == "__main__":
    report(chat, stream, stream_helper, tools, structured, memory, downgrade, stop, stop_stream, outage)
