"""What something was in an earlier span, beside what it is: up or down, by how much and by how many percent. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Change:
    """Two figures of one kind: counts, or amounts in ticks."""

    now: int
    before: int

    @property
    def difference(self) -> int:
        return self.now - self.before

    @property
    def percent(self) -> int | None:
        """Rounded half away from zero; None where there was nothing before, so that no percent could be told."""
        if not self.before:
            return None
        size = (200 * abs(self.difference) + abs(self.before)) // (2 * abs(self.before))
        return size if self.difference >= 0 else -size

    @property
    def direction(self) -> str:
        return "up" if self.difference > 0 else "down" if self.difference < 0 else "same"
