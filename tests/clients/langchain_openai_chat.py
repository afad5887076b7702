"""LangChain's ChatOpenAI, unchanged."""

from typing import Any

from common import BASE_URL, KEYS, QUESTION, TOOL_QUESTION, get_weather, report
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI
from pydantic import BaseModel


def chat_of(tenant: str, **options: Any) -> ChatOpenAI:
    return ChatOpenAI(model="auto", base_url=BASE_URL, api_key=KEYS[tenant], **options)


def chat() -> dict[str, Any]:
    answer = chat_of("open").invoke(QUESTION)
    return {"content": answer.content, "model": answer.response_metadata["model_name"]}


def stream() -> dict[str, Any]:
    pieces = [piece for piece in chat_of("open").stream(QUESTION) if piece.content]
    models = {piece.response_metadata.get("model_name") for piece in chat_of("open").stream(QUESTION)} - {None}
    return {"content": "".join(piece.content for piece in pieces), "pieces": len(pieces), "models": sorted(models)}


def tools() -> dict[str, Any]:
    chat = chat_of("open").bind_tools([get_weather])
    asked = chat.invoke([HumanMessage(TOOL_QUESTION)])
    (call,) = asked.tool_calls
    result = ToolMessage(get_weather(**call["args"]), tool_call_id=call["id"])
    return {"content": chat.invoke([HumanMessage(TOOL_QUESTION), asked, result]).content}


class Order(BaseModel):
    number: int
    status: str


def structured() -> dict[str, Any]:
    return {"parsed": type(chat_of("open").with_structured_output(Order).invoke(QUESTION)).__name__}


def downgrade() -> dict[str, Any]:
    return {"model": chat_of("soft").invoke(QUESTION).response_metadata["model_name"]}


def stop() -> None:
    chat_of("stopped").invoke(QUESTION)


def outage() -> None:
    chat_of("down", max_retries=0).invoke(QUESTION)


if __name__ == "__main__":
    report(chat, stream, tools, structured, downgrade, stop, outage)
