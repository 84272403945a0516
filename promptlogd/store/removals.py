"""Removes a program and the names on it: all of it or nothing, on a full disk as well."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from promptlogd.store.errors import NotFound, StoreFailed, StoreFull
from promptlogd.store.journal import Move
from promptlogd.store.state import State

_log = logging.getLogger(__name__)
_R = TypeVar("_R")


class Removals:
    """Removes programs. The caller holds the writers' lock."""

    def __init__(self, state: State) -> None:
        self._state = state

    def remove(self, hash: str) -> Sequence[str]:
        """Remove a program; return the names that were on it. Raises NotFound, StoreFailed.

        The program is removed once its folder is out of its place and the journal has taken its names off. The next
        start does the rest if this call can't.
        """
        objects = self._state.objects
        try:
            if not objects.has(hash):
                self._despite_full(lambda: self.drop(hash))  # names and rows that an interrupted removal left
                raise NotFound(hash)
            moves, grave = self._despite_full(lambda: self._take_out(hash))
            objects.erase(grave)
            try:
                self._despite_full(lambda: self.forget(hash, moves))
            except StoreFailed as error:
                _log.error("program %s is removed, and is listed until the next start: %s", hash, error)
            return [move.name for move in moves]
        finally:
            self._restore_reserve()

    def drop(self, hash: str) -> None:
        """Take all names off a program that has no folder any more, and forget it. Raises StoreFailed."""
        moves = self._moves_off(hash)
        self._state.journal.append(moves, removal=True)
        self.forget(hash, moves)

    def forget(self, hash: str, moves: Sequence[Move]) -> None:
        """Remove a program from the facts, with moves that the journal has. Raises StoreFailed."""
        with self._state.use_facts():
            self._state.facts.apply(moves, gone=hash)

    def _take_out(self, hash: str) -> tuple[Sequence[Move], str]:
        """Take a program from its place and all names off it, or do nothing. Raises StoreFailed."""
        moves = self._moves_off(hash)
        grave = self._state.objects.take_out(hash)
        try:
            self._state.journal.append(moves, removal=True)
        except StoreFailed:
            self._state.objects.put_back(hash, grave)
            raise
        return moves, grave

    def _moves_off(self, hash: str) -> Sequence[Move]:
        with self._state.use_facts():
            names = self._state.facts.names(hash)
        return [Move(name=name, hash=None, at=time.time()) for name in names]

    def _despite_full(self, step: Callable[[], _R]) -> _R:
        """Take a step of a removal. If the disk is full, release the reserve and take the step again."""
        try:
            return step()
        except StoreFull:
            self._state.reserve.release()
            return step()

    def _restore_reserve(self) -> None:
        if self._state.reserve.released:
            # A small program frees less than its removal added to SQLite's log. Readers wait here, on a full disk only.
            try:
                with self._state.use_facts():
                    self._state.facts.empty_log()
            except StoreFailed as error:
                _log.error("%s", error)
        self._state.reserve.make()
