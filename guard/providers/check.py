"""Whether a provider is well and knows our key, found out as any OpenAI client would: by the openai package.

It asks for the list of models, which costs nothing.  The guard's own client plays no part, so that what is wrong here
is wrong with the address, the key or the provider.
"""

from dataclasses import dataclass

import openai

WAIT_S = 20.0
WORDS: dict[type[openai.OpenAIError], str] = {
    openai.APITimeoutError: f"said nothing for {WAIT_S:.0f} seconds",
    openai.AuthenticationError: "refuses the key",
    openai.PermissionDeniedError: "knows the key, and lets it do nothing: check its rights and its account's credit",
    openai.NotFoundError: "has no list of models at this address: check the address, which mostly ends in /v1",
    openai.RateLimitError: "is throttling this key, or its account is out of money",
    openai.InternalServerError: "has trouble of its own: try again later",
    openai.OpenAIError: "answered with what no provider of models would: check the address",
}
"""By kind, the narrower first."""


@dataclass(frozen=True)
class Finding:
    """What was found at one provider: `models` are the names it lists, none where something is wrong."""

    words: str
    models: frozenset[str] = frozenset()
    is_well: bool = False


def check_provider(base_url: str, api_key: str) -> Finding:
    """Never raises: whatever goes wrong is the finding. `words` never have the key."""
    try:
        # The key goes to the address that was configured, and to no other.
        http_client = openai.DefaultHttpxClient(follow_redirects=False)
        with openai.OpenAI(
            api_key=api_key, base_url=base_url, max_retries=1, timeout=WAIT_S, http_client=http_client
        ) as client:
            listed = frozenset(model.id for model in client.models.list().data)
    except openai.OpenAIError as error:
        return Finding(words_of(error))
    except (AttributeError, TypeError, ValueError):  # the package reads whatever comes with status 200 as its own type
        return Finding("something that is no list of models came back: check the address, which mostly ends in /v1")
    return Finding(f"works, and lists {len(listed)} models", listed, is_well=True)


def words_of(error: openai.OpenAIError) -> str:
    # xAI answers 400, not 401, to a key that it does not know.
    if isinstance(error, openai.BadRequestError) and "api key" in error.response.text.lower():
        return WORDS[openai.AuthenticationError]
    if isinstance(error, openai.APIConnectionError) and not isinstance(error, openai.APITimeoutError):
        return f"can't be reached: {error.__cause__ or error}".rstrip(".")
    return next(words for kind, words in WORDS.items() if isinstance(error, kind))
