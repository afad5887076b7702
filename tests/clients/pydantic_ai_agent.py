"""PydanticAI's Agent, unchanged."""

from typing import Any

from common import BASE_URL, KEYS, QUESTION, TOOL_QUESTION, get_weather, report
from openai import AsyncOpenAI
from pydantic_ai import Agent
from pydantic_ai.messages import ModelResponse
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

MODEL: Any = OpenAIChatModel


def agent_of(tenant: str, client: AsyncOpenAI | None = None, **options: Any) -> Agent:
    provider = (
        OpenAIProvider(openai_client=client) if client else OpenAIProvider(base_url=BASE_URL, api_key=KEYS[tenant])
    )
    return Agent(MODEL("auto", provider=provider), **options)


def model_of(result: Any) -> str:
    return next(message.model_name for message in result.all_messages() if isinstance(message, ModelResponse))


async def chat() -> dict[str, Any]:
    result = await agent_of("open").run(QUESTION)
    return {"content": result.output, "model": model_of(result)}


async def stream() -> dict[str, Any]:
    async with agent_of("open").run_stream(QUESTION) as result:
        pieces = [piece async for piece in result.stream_text(delta=True, debounce_by=None)]
    return {"content": "".join(pieces), "pieces": len(pieces)}


async def tools() -> dict[str, Any]:
    result = await agent_of("open", tools=[get_weather]).run(TOOL_QUESTION)
    return {"content": result.output}


async def downgrade() -> dict[str, Any]:
    return {"model": model_of(await agent_of("soft").run(QUESTION))}


async def stop() -> None:
    await agent_of("stopped").run(QUESTION)


async def outage() -> None:
    client = AsyncOpenAI(base_url=BASE_URL, api_key=KEYS["down"], max_retries=0)
    await agent_of("down", client).run(QUESTION)


WORK = (chat, stream, tools, downgrade, stop, outage)

if __name__ == "__main__":
    report(*WORK)
