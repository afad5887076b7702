"""The OpenAI Agents SDK with its default model, which speaks the Responses API, unchanged."""

import openai_agents_run
from agents import OpenAIResponsesModel
from common import report

openai_agents_run.MODEL = OpenAIResponsesModel

if __name__ == "__main__":
    report(*openai_agents_run.WORK)
