"""What a provider's failure means for the call and for the bill.

ProviderError
├── Rejected   the provider says the request is bad: the caller's error, no fallback
└── Failed     anything else: the call falls back, the breaker counts
      `billed` is False where the provider surely billed nothing, None where nobody knows
"""

from django.conf import settings


class ProviderError(Exception):
    """Something went wrong at the provider."""


class Rejected(ProviderError):
    """The provider's own words for what is wrong with the request, and the field it names."""

    code = "rejected"

    def __init__(self, message: str, param: str | None) -> None:
        super().__init__(message)
        self.param = param


class Failed(ProviderError):
    def __init__(self, code: str, *, billed: bool | None = False) -> None:
        super().__init__(code)
        self.code = code
        self.billed = billed


def demo_stands_in() -> bool:
    """Made-up answers are for trying the guard out; a production server without keys refuses instead."""
    return settings.DEBUG and not (settings.XAI_API_KEY or settings.OPENAI_API_KEY)
