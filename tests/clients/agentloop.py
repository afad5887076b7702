"""An agent of the OpenAI Agents SDK with a tool and a temperature, asked again and again until it is refused."""

from typing import Any

from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from common import BASE_URL, KEYS, TOOL_QUESTION, get_weather, report, seen_in
from openai import APIStatusError, AsyncOpenAI

MOST_TURNS = 400

set_tracing_disabled(True)


async def loop() -> dict[str, Any]:
    client = AsyncOpenAI(base_url=BASE_URL, api_key=KEYS["small"])
    agent = Agent(
        name="Support",
        model=OpenAIChatCompletionsModel(model="auto", openai_client=client),
        model_settings=ModelSettings(temperature=0.2, max_tokens=60),
        tools=[function_tool(get_weather)],
    )
    history: list[Any] = []
    for turn in range(MOST_TURNS):
        try:
            result = await Runner.run(agent, [*history, {"role": "user", "content": TOOL_QUESTION}])
        except APIStatusError as error:
            return {"turns": turn, "ended_by": seen_in(error)}
        # The last one before the cap may be cut.
        assert "looked that up" in result.final_output, result.final_output
        history = result.to_input_list() if turn % 4 else []
    return {"turns": MOST_TURNS}


if __name__ == "__main__":
    report(loop)
