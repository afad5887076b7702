"""Names in JSON objects, of which none may come twice: one of two values would be dropped without a word. Pure."""

from collections import Counter
from collections.abc import Sequence
from typing import Any


def name_given_twice(pairs: Sequence[tuple[str, Any]]) -> str | None:
    """The first name that stands more than once in the members of one object, as `object_pairs_hook` gets them."""
    if len(dict(pairs)) == len(pairs):
        return None
    # Counted in one pass: a body may have a million names.
    return next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
