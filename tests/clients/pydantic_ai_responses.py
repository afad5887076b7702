"""PydanticAI's Agent with its default model for OpenAI, which speaks the Responses API, unchanged."""

import pydantic_ai_agent
from common import report
from pydantic_ai.models.openai import OpenAIResponsesModel

pydantic_ai_agent.MODEL = OpenAIResponsesModel

if __name__ == "__main__":
    report(*pydantic_ai_agent.WORK)
