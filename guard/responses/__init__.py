"""`POST /v1/responses`: OpenAI's Responses API, served by the guarded call.

`request` and `answer` and `events` translate between the two dialects and know nothing else.
"""
