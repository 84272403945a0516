"""What was read and verified a moment ago, in memory up to a bound. An entry lasts while its stamp does. Pure."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Recent(Generic[_T]):
    """Least recently used goes first. `most_bytes`: of all entries together."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._entries: OrderedDict[str, tuple[object, int, _T]] = OrderedDict()

    def get(self, key: str, stamp: object) -> _T | None:
        """Return what was kept with this stamp; what was kept with another is dropped."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry[0] != stamp:
            self.drop(key)
            return None
        self._entries.move_to_end(key)
        return entry[2]

    def put(self, key: str, stamp: object, size: int, value: _T) -> None:
        """Keep a value of `size` bytes, unless it would take more than an eighth of all."""
        self.drop(key)
        if size > self._most_bytes // 8:
            return
        self._entries[key] = (stamp, size, value)
        self._bytes += size
        while self._bytes > self._most_bytes:
            self.drop(next(iter(self._entries)))

    def drop(self, key: str) -> None:
        """Forget an entry, if it is there."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._bytes -= entry[1]
