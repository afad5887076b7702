"""The OpenAI Agents SDK with its default model, which speaks the Responses API, unchanged."""

from typing import Any

import openai_agents_run
from agents import OpenAIResponsesModel, Runner, function_tool
from common import QUESTION, TOOL_QUESTION, get_weather, report

openai_agents_run.MODEL = OpenAIResponsesModel


async def memory() -> dict[str, Any]:
    """Each turn of the agent, and the next run, goes on from the response before it."""
    agent = openai_agents_run.agent_of("keeps", [function_tool(get_weather)])
    first = await Runner.run(agent, TOOL_QUESTION, auto_previous_response_id=True)
    again = await Runner.run(agent, QUESTION, previous_response_id=first.last_response_id)
    return {"content": first.final_output, "again": again.final_output}


if __name__ == "__main__":
    report(*openai_agents_run.WORK, memory)
