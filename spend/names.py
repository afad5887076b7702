"""Customers and conversations by the names that their callers gave them. Pure.

Why composed (NFC) and not folded further: docs/adr/0033.
"""

from collections.abc import Callable
from unicodedata import normalize

# Marks that nobody sees: of direction, of where to break or to join, and of a file's byte order.
INVISIBLE = "\u00ad\u200b\u200c\u200d\u200e\u200f\u2060\ufeff"
BLANK = "".join(each for each in map(chr, range(0x3001)) if each.isspace()) + INVISIBLE


def tidy(given: str | None) -> str:
    """A customer's or conversation's id in the one form in which it is counted; empty for none."""
    return normalize("NFC", given or "").strip(BLANK)


MOST_TAGS = 8
MOST_TAG_CHARACTERS = 64
TAGS_LENGTH = MOST_TAGS * (MOST_TAG_CHARACTERS + 1)
"""Characters of as many tags as there may be, as they are stored."""


def tags_of(given: str | None) -> tuple[str, ...]:
    """The tags of a text that has them separated by commas, each once, tidied and in order."""
    return tuple(sorted(set(filter(None, map(tidy, (given or "").split(","))))))


def as_counted(given: str, is_borne: Callable[[str], bool]) -> str:
    """Just what was given where something bears it, as ids from before they were tidied may; else tidied."""
    tidied = tidy(given)
    return given if tidied == given or is_borne(given) else tidied
