"""How providers are spoken to: inside the guard all is a chat completion, and a dialect translates there and back."""

from collections.abc import Callable, Mapping
from typing import Any

from guard.http.sse import Event
from guard.providers import affinity
from guard.providers.dialects.responses_answer import completion_of_response
from guard.providers.dialects.responses_events import ResponseReader
from guard.providers.dialects.responses_request import can_say, chat_name, name_in, responses_request, stream_options
from guard.providers.failures import Rejected

Json = dict[str, Any]
EventReader = Callable[[list[Event]], list[Event]]

CHAT, RESPONSES = "chat", "responses"
RESPONSES_PATH = "/responses"


class Chat:
    """Chat completions, which pass as they are. Usage is asked of a stream always: it is settled by that."""

    path = "/chat/completions"

    def request(self, payload: Json, *, stream: bool) -> Json:
        if not stream:
            return payload
        options = {**payload.get("stream_options", {}), "include_usage": True}
        return {**payload, "stream": True, "stream_options": options}

    def completion(self, answer: Any) -> Any:
        return answer

    def event_reader(self) -> EventReader:
        """Reads the events of one stream."""
        return list

    def in_chat_names(self, rejected: Rejected) -> Rejected:
        return rejected


class Responses(Chat):
    """The Responses API, which ends each stream with its usage. Nothing is stored."""

    path = RESPONSES_PATH

    def request(self, payload: Json, *, stream: bool) -> Json:
        return {**responses_request(payload), **stream_options(payload)} if stream else responses_request(payload)

    def completion(self, answer: Any) -> Any:
        return completion_of_response(answer)

    def event_reader(self) -> EventReader:
        return ResponseReader().read

    def in_chat_names(self, rejected: Rejected) -> Rejected:
        rejected.param = chat_name(rejected.param) if rejected.param else name_in(str(rejected))
        return rejected


DIALECTS: Mapping[str, Chat] = {CHAT: Chat(), RESPONSES: Responses()}


def dialect_for(payload: Mapping[str, Any], preferred: str) -> str:
    """The preferred one, unless it has no word for something in this request."""
    return RESPONSES if preferred == RESPONSES and can_say(payload) else CHAT


def with_affinity(dialect: str, payload: Mapping[str, Any], headers: Mapping[str, str]) -> tuple[Json, Json]:
    """xAI's key of a conversation is a header of chat completions, and a parameter of responses."""
    key = headers.get(affinity.XAI_HEADER)
    if dialect == CHAT or key is None:
        return dict(payload), dict(headers)
    others = {name: value for name, value in headers.items() if name != affinity.XAI_HEADER}
    return {**payload, affinity.CACHE_KEY: key}, others
