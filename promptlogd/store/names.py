"""Moves names: in the journal first, then in the facts; in both or in neither."""

from __future__ import annotations

import time

from promptlogd.store.errors import NotFound, StoreFailed
from promptlogd.store.journal import Move
from promptlogd.store.references import before
from promptlogd.store.state_folder import StateFolder


class Names:
    """Moves names. The caller holds the writers' lock."""

    def __init__(self, state: StateFolder) -> None:
        self._state = state

    def label(self, name: str, hash: str | None) -> tuple[str, str | None]:
        """Move a name to a program, or back to where it was last; return (where it is, where it was).

        Raises NotFound if the program, or a place to go back to, is not there; StoreFailed.
        """
        with self._state.use_facts():
            previous = self._state.facts.named(name)
            history = self._state.facts.history(name)
        if hash is None:
            hash, back = before(name, history, self._state.objects.has)
            self.move(name, hash, back=back)
        elif not self._state.objects.has(hash):
            raise NotFound(hash)
        elif previous != hash:
            self.move(name, hash)
        return hash, previous

    def move(self, name: str, hash: str, *, back: int = 0) -> None:
        """Put a name on a program, or do nothing. Raises StoreFailed."""
        move = Move(name=name, hash=hash, at=time.time(), back=back)
        end = self._state.journal.append([move])
        try:
            with self._state.use_facts():
                self._state.facts.apply([move])
        except StoreFailed:
            self._state.journal.cut(end)
            raise
