"""The OpenAI Agents SDK, unchanged."""

from typing import Any

from agents import Agent, OpenAIChatCompletionsModel, Runner, function_tool, set_tracing_disabled
from common import BASE_URL, KEYS, QUESTION, TOOL_QUESTION, get_weather, report
from openai import AsyncOpenAI

set_tracing_disabled(True)
MODEL: Any = OpenAIChatCompletionsModel


def agent_of(tenant: str, tools: Any = (), **options: Any) -> Agent:
    client = AsyncOpenAI(base_url=BASE_URL, api_key=KEYS[tenant], **options)
    return Agent(name="Support", model=MODEL(model="auto", openai_client=client), tools=list(tools))


async def chat() -> dict[str, Any]:
    return {"content": (await Runner.run(agent_of("open"), QUESTION)).final_output}


async def stream() -> dict[str, Any]:
    result = Runner.run_streamed(agent_of("open"), QUESTION)
    pieces = [
        event.data.delta
        async for event in result.stream_events()
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta"
    ]
    return {"content": "".join(pieces), "pieces": len(pieces)}


async def tools() -> dict[str, Any]:
    result = await Runner.run(agent_of("open", [function_tool(get_weather)]), TOOL_QUESTION)
    return {"content": result.final_output}


async def downgrade() -> dict[str, Any]:
    """The SDK doesn't show the model; the ledger does."""
    return {"content": (await Runner.run(agent_of("soft"), QUESTION)).final_output}


async def stop() -> None:
    await Runner.run(agent_of("stopped"), QUESTION)


async def outage() -> None:
    await Runner.run(agent_of("down", max_retries=0), QUESTION)


WORK = (chat, stream, tools, downgrade, stop, outage)

if __name__ == "__main__":
    report(*WORK)
