"""Queues to threads of a worker's own, for what may be dropped but must neither grow without bound nor wait."""

import logging
from queue import Full, Queue
from typing import Any, Protocol, TypeVar

import orjson


class Weighed(Protocol):
    """`size` is in bytes."""

    @property
    def size(self) -> int: ...


Item = TypeVar("Item", bound=Weighed)


class BoundedQueue(Queue[Item]):
    """First in, first out, bounded by count and by bytes; what would pass either bound is dropped, and counted."""

    def __init__(self, most_items: int, most_bytes: int, logger: logging.Logger, dropped_line: str) -> None:
        """`dropped_line` is what the log says, with a place for how many were dropped so far."""
        super().__init__(most_items)
        self.most_bytes, self.bytes_queued = most_bytes, 0
        self.logger, self.dropped_line, self.dropped = logger, dropped_line, 0

    def offer(self, item: Item) -> bool:
        """Queue the item, or drop it; whether it is queued. Neither waits nor raises."""
        try:
            self.put_nowait(item)
            return True
        except Full:
            self.dropped += 1
            if self.dropped.bit_count() == 1:  # the 1st, 2nd, 4th, 8th …
                self.logger.warning(self.dropped_line, self.dropped)
            return False

    def _put(self, item: Item) -> None:
        """Called by Queue under its lock, as `_get` is."""
        if self.bytes_queued + item.size > self.most_bytes:
            raise Full
        super()._put(item)
        self.bytes_queued += item.size

    def _get(self) -> Item:
        item: Item = super()._get()
        self.bytes_queued -= item.size
        return item


def size_of(*values: Any) -> int:
    """The bytes of the values' JSON, which is about what they take in memory where they are long."""
    return sum(len(orjson.dumps(value)) for value in values)
