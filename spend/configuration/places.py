"""Values of a file with their place in it, read strictly: what is wrong is told as `tenants[2].budgets[0].limit …`."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tenants.exact import MOST_INTEGER


class Refused(Exception):
    """What a file may not say, a line each; nothing of it was taken."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass
class Problems:
    """Gathers what is wrong in several places, so that all of it is told at once."""

    found: list[str] = field(default_factory=list)

    @contextmanager
    def gathered(self) -> Iterator[None]:
        try:
            yield
        except Refused as error:
            self.found += error.problems

    def tell(self) -> None:
        if self.found:
            raise Refused(self.found)


@dataclass(frozen=True)
class Place:
    """A value and where it stands. Each reader raises Refused for a value of another type."""

    path: str
    value: Any

    def refused(self, why: str) -> Refused:
        return Refused([f"{self.path or 'The file'} {why}."])

    def fields(self, known: Collection[str], needed: Collection[str] = ()) -> dict[str, "Place"]:
        """The values of an object by their names, of which none is unknown."""
        if not isinstance(self.value, dict):
            raise self.refused(f"must be fields with values, not {_told(self.value)}")
        if unknown := [name for name in self.value if name not in known]:
            raise Refused([f"{self.under(name)} is not known; there are {', '.join(known)}." for name in unknown])
        if missing := [name for name in needed if name not in self.value]:
            raise Refused([f"{self.under(name)} is missing." for name in missing])
        return {name: Place(self.under(name), value) for name, value in self.value.items()}

    def under(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path else name

    def elements(self) -> list["Place"]:
        if not isinstance(self.value, list):
            raise self.refused(f"must be a list, not {_told(self.value)}")
        return [Place(f"{self.path}[{number}]", value) for number, value in enumerate(self.value)]

    def text(self) -> str:
        if not isinstance(self.value, str):
            raise self.refused(f"must be text, in quotes where it looks like a number, not {_told(self.value)}")
        if "\0" in self.value or any("\ud800" <= character <= "\udfff" for character in self.value):
            raise self.refused("holds a character that no database keeps")
        return self.value

    def choice(self, choices: Collection[str]) -> str:
        if self.value not in choices:
            raise self.refused(f"must be one of {', '.join(choices)}, not {_told(self.value)}")
        return str(self.value)

    def yes_or_no(self) -> bool:
        if not isinstance(self.value, bool):
            raise self.refused(f"must be true or false, not {_told(self.value)}")
        return self.value

    def whole_number(self) -> int:
        if not isinstance(self.value, int) or isinstance(self.value, bool) or not 0 <= self.value <= MOST_INTEGER:
            raise self.refused(f"must be a whole number from 0 to {MOST_INTEGER}, not {_told(self.value)}")
        return self.value


def _told(value: Any) -> str:
    if isinstance(value, dict | list):
        return "a list" if isinstance(value, list) else "fields with values"
    if value is None or isinstance(value, bool):
        return {None: "nothing", True: "true", False: "false"}[value]
    shown = str(value)
    shown = shown if len(shown) <= 40 else f"{shown[:40]}…"
    return repr(shown) if isinstance(value, str) else shown
