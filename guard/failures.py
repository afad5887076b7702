"""What a provider's failure means for the call and for the bill.

ProviderError
├── Rejected   the provider says the request is bad: its caller's error, if they chose the model; no breaker count
└── Failed     anything else: the call falls back, the breaker counts
      `billed` is False where the provider surely billed nothing, None where nobody knows
"""

from django.conf import settings


class ProviderError(Exception):
    """Something went wrong at the provider."""


class Rejected(ProviderError):
    """The provider's own words for what is wrong with the request, and the field it names."""

    code = "rejected"

    def __init__(self, message: str, param: str | None, refusal: str | None = None) -> None:
        """`refusal` is the provider's code for why, such as unsupported_parameter."""
        super().__init__(message)
        self.param = param
        self.refusal = refusal


class Failed(ProviderError):
    def __init__(self, code: str, *, billed: bool | None = False) -> None:
        super().__init__(code)
        self.code = code
        self.billed = billed


def demo_stands_in() -> bool:
    """Made-up answers are for trying the guard out; a production server without keys refuses instead."""
    return settings.DEBUG and not (settings.XAI_API_KEY or settings.OPENAI_API_KEY)
