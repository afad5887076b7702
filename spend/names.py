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


def as_counted(given: str, is_borne: Callable[[str], bool]) -> str:
    """Just what was given where something bears it, as ids from before they were tidied may; else tidied."""
    tidied = tidy(given)
    return given if tidied == given or is_borne(given) else tidied
