"""Removes a program and its names, atomically, also on a full disk."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from promptlogd.store.errors import NotFound, StoreFailed, StoreFull
from promptlogd.store.holders import Viewer
from promptlogd.store.journal import Move
from promptlogd.store.state_folder import StateFolder

_log = logging.getLogger(__name__)
_R = TypeVar("_R")


class Removals:
    """Removes programs. The caller holds the writers' lock."""

    def __init__(self, state: StateFolder) -> None:
        self._state = state

    def remove(self, hash: str) -> Sequence[str]:
        """Remove a program and return its names. Raises NotFound, StoreFailed.

        The program counts as removed once its folder is renamed and the journal has the removal of its names. If this
        call cannot complete the rest, the next start does.
        """
        objects = self._state.objects
        try:
            if not objects.has(hash):
                # An interrupted removal may have left names and rows.
                self._retry_with_reserve(lambda: self.remove_names_and_facts(hash))
                raise NotFound(hash)
            moves, removed_folder = self._retry_with_reserve(lambda: self._take_out(hash))
            self._state.usage.add(-objects.erase(removed_folder))
            try:
                self._retry_with_reserve(lambda: self._remove_facts(hash, moves))
            except StoreFailed as error:
                _log.error("program %s is removed, but is still listed until the next start: %s", hash, error)
            return [move.name for move in moves]
        finally:
            self._restore_reserve()

    def remove_names_and_facts(self, hash: str) -> None:
        """Remove the names and the facts of a program whose folder no longer exists. Raises StoreFailed."""
        moves = self._moves_off(hash)
        self._state.journal.append(moves, removal=True)
        self._remove_facts(hash, moves)

    def _remove_facts(self, hash: str, moves: Sequence[Move]) -> None:
        """Remove a program from SQLite, and apply moves that are in the journal. Raises StoreFailed."""
        self._state.apply(moves, gone=hash)

    def _take_out(self, hash: str) -> tuple[Sequence[Move], str]:
        """Rename a program to a temporary name and remove all its names, atomically. Raises StoreFailed."""
        moves = self._moves_off(hash)
        removed_folder = self._state.objects.take_out(hash)
        try:
            self._state.journal.append(moves, removal=True)
        except StoreFailed:
            self._state.objects.put_back(hash, removed_folder)
            raise
        return moves, removed_folder

    def remove_names_of(self, hash: str, viewer: Viewer) -> Sequence[str]:
        """Remove the names on a program that belong to a viewer, and return them. Raises StoreFailed."""
        with self._state.read_facts() as facts:
            owners = {name: facts.name_owner(name) for name in facts.names_on(hash)}
        own = [name for name, owner in owners.items() if owner is not None and viewer.owns(owner.uid, owner.tenant)]
        moves = [Move(name=name, hash=None, at=time.time()) for name in own]
        try:
            end = self._retry_with_reserve(lambda: self._state.journal.append(moves, removal=True))
            try:
                self._retry_with_reserve(lambda: self._state.apply(moves))
            except StoreFailed:
                self._state.journal.cut(end)
                raise
        finally:
            self._restore_reserve()
        return own

    def _moves_off(self, hash: str) -> Sequence[Move]:
        with self._state.read_facts() as facts:
            names = facts.names_on(hash)
        at = time.time()
        return [Move(name=name, hash=None, at=at) for name in names]

    def _retry_with_reserve(self, step: Callable[[], _R]) -> _R:
        """Execute a step of a removal. If the disk is full, release the reserve and repeat the step."""
        try:
            return step()
        except StoreFull:
            self._state.reserve.release()
            return step()

    def _restore_reserve(self) -> None:
        if self._state.reserve.released:
            # Removing a small program can grow the WAL more than it frees, so truncate the WAL first.
            try:
                with self._state.use_facts():
                    self._state.facts.empty_log()
            except StoreFailed as error:
                _log.error("%s", error)
        self._state.reserve.restore()
