"""Moves names: first in the journal, then in SQLite; in both or in neither."""

from __future__ import annotations

import time

from promptlogd.store.compaction import Compaction
from promptlogd.store.errors import NotFound, StoreFailed, TooManyNames
from promptlogd.store.journal import Move
from promptlogd.store.references import before
from promptlogd.store.state_folder import StateFolder

MOST_NAMES_OF_PROGRAM = 64
"""Maximum number of names of one program. `show` and `list` send all of them, and a removal removes all of them."""
MOST_NAMES = 100_000
"""Maximum number of names. The last move of each stays in the journal: 19 MB."""
_MOVES_BACK = 1000
"""Maximum number of moves of a name that can be undone. A compaction may leave fewer. Reading them takes 2 ms."""


class Names:
    """Moves names. The caller holds the writers' lock."""

    def __init__(self, state: StateFolder) -> None:
        self._state = state
        self._compaction = Compaction(state)

    def label(self, name: str, hash: str | None) -> tuple[str, str | None]:
        """Move a name to a program, or undo its last move. Return (new hash, previous hash).

        Raises NotFound if the program does not exist or there is no move to undo; TooManyNames, StoreFailed.
        """
        with self._state.read_facts() as facts:
            previous = facts.named(name)
            history = facts.history(name, _MOVES_BACK) if hash is None else []
        if hash is None:
            hash, back = before(name, history, self._state.objects.has)
            self.check_room(name, hash)
            self.move(name, hash, back=back)
        elif not self._state.objects.has(hash):
            raise NotFound(hash)
        elif previous != hash:
            self.check_room(name, hash)
            self.move(name, hash)
        return hash, previous

    def moved_from(self, name: str, hash: str) -> str | None:
        """Return the other program that a name is on, if it is on one. Raises StoreFailed."""
        with self._state.read_facts() as facts:
            previous = facts.named(name)
        return None if previous == hash else previous

    def check_room(self, name: str, hash: str) -> None:
        """Raise TooManyNames if this program or the store has the maximum number of names. Raises StoreFailed."""
        with self._state.read_facts() as facts:
            previous = facts.named(name)
            if previous == hash:
                return
            if facts.count_names_on(hash) >= MOST_NAMES_OF_PROGRAM:
                raise TooManyNames(
                    f"program {hash} has {MOST_NAMES_OF_PROGRAM} names, the maximum; use one of them, or first move "
                    "one to another program",
                    MOST_NAMES_OF_PROGRAM,
                )
            if previous is None and facts.count_names() >= MOST_NAMES:
                raise TooManyNames(
                    f"there are {MOST_NAMES} names, the maximum; move an existing name, or remove programs that "
                    "have names",
                    MOST_NAMES,
                )

    def move(self, name: str, hash: str, *, back: int = 0) -> None:
        """Move a name to a program, atomically. Raises StoreFailed."""
        self._compaction.compact_if_long()
        move = Move(name=name, hash=hash, at=time.time(), back=back)
        end = self._state.journal.append([move])
        try:
            self._state.apply([move])
        except StoreFailed:
            self._state.journal.cut(end)
            raise
