"""Bounded caches of recently read and verified data. Pure and thread-safe.

The event loop takes the locks at each run. They are held for a few dictionary operations only.
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from typing import Generic, TypeVar

_K = TypeVar("_K", bound=Hashable)
_T = TypeVar("_T")

_HOT_S = 10.0
"""For this time after its last use, reading an entry's stamp does not wait for the disk.

The kernel still caches the inodes of files that were used this recently.
"""
_FRESH_S = 0.02
"""For this time, an entry is returned without a comparison with its file: at most 50 comparisons a second. The store
calls `forget` after its own changes."""
_MOST_NAMES = 1000
"""Maximum number of names in the cache. With at most 64 characters each and their hashes: 0.3 MB."""


class Recent(Generic[_K, _T]):
    """An LRU cache of at most `most_bytes`. An entry is valid while its stamp is the same."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._mutex = threading.Lock()
        self._entries: OrderedDict[_K, tuple[object, int, _T]] = OrderedDict()
        self._verified_at: dict[_K, float] = {}

    def recall(self, key: _K, stamp: Callable[[], object]) -> _T | None:
        """Return a value without waiting for the disk; None if the caller must read it.

        The stamp is read at most once in 20 ms, and only if the entry was used in the last 10 s.
        """
        age_s = time.monotonic() - self._verified_at.get(key, -math.inf)
        if age_s >= _HOT_S:
            return None
        if age_s >= _FRESH_S:
            return self.get(key, stamp())
        with self._mutex:
            entry = self._entries.get(key)
            return None if entry is None else entry[2]

    def forget(self, key: _K) -> None:
        """Drop an entry after its file was changed or removed."""
        with self._mutex:
            self._drop(key)

    def get(self, key: _K, stamp: object) -> _T | None:
        """Return the value that was stored with this stamp. A value with another stamp is dropped."""
        with self._mutex:
            entry = self._entries.get(key)
            if entry is None:
                return None
            if entry[0] != stamp:
                self._drop(key)
                return None
            self._entries.move_to_end(key)
            self._verified_at[key] = time.monotonic()
            return entry[2]

    def put(self, key: _K, stamp: object, size: int, value: _T) -> None:
        """Store a value of `size` bytes, unless it is larger than an eighth of the cache."""
        with self._mutex:
            self._drop(key)
            if size > self._most_bytes // 8:
                return
            self._entries[key] = (stamp, size, value)
            self._verified_at[key] = time.monotonic()
            self._bytes += size
            while self._bytes > self._most_bytes:
                self._drop(next(iter(self._entries)))

    def _drop(self, key: _K) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._bytes -= entry[1]
            del self._verified_at[key]


class RecentNames:
    """An LRU cache from names to hashes."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._hashes: OrderedDict[str, str] = OrderedDict()
        self._moves = 0

    @property
    def moves(self) -> int:
        """Number of moves of names so far."""
        return self._moves

    def get(self, name: str) -> str | None:
        """Return the hash of a name; None if it is not in the cache."""
        with self._mutex:
            hash = self._hashes.get(name)
            if hash is not None:
                self._hashes.move_to_end(name)
            return hash

    def put(self, name: str, hash: str, moves: int) -> None:
        """Store a hash that was looked up when `moves` had this value, unless names have moved since then."""
        with self._mutex:
            if moves == self._moves:
                self._hashes[name] = hash
                if len(self._hashes) > _MOST_NAMES:
                    self._hashes.popitem(last=False)

    def moved(self, names: Iterable[str]) -> None:
        """Drop names that have moved. Call this before anybody is told of the move."""
        with self._mutex:
            self._moves += 1
            for name in names:
                self._hashes.pop(name, None)
