"""Compacts the journal of names: deletes old moves once there are many more moves than names.

The moves are first deleted from SQLite, durably. Then the journal is replaced. After a kill in between, the journal has
more moves than SQLite. The next start treats these as moves that SQLite has lost, and adds them again.
"""

from __future__ import annotations

import logging

from promptlogd.store.errors import StoreFailed, store_error
from promptlogd.store.state_folder import StateFolder

_log = logging.getLogger(__name__)

_LEAST_BYTES = 4 << 20
"""About 22,000 moves. A shorter journal is not compacted."""
_MOVES_BESIDE_NAMES = 10_000
"""Moves that stay in addition to one for each name. So 100,000 names leave at most 22 MB, a third of the limit."""
_RETRY_BYTES = 1 << 20
"""Growth of the journal after which a failed compaction is retried."""


class Compaction:
    """Compacts the journal when it has doubled. The caller holds the writers' lock."""

    def __init__(self, state: StateFolder) -> None:
        self._state = state
        self._next_bytes = _LEAST_BYTES

    def compact_if_long(self) -> None:
        """Compact the journal if it is long. A failure is logged.

        Other writers wait for it: 0.1 s for 22,000 moves, 0.4 s with 100,000 names. Readers do not wait.
        """
        before = self._state.journal.size
        if before <= self._next_bytes:
            return
        try:
            self._compact()
        except StoreFailed as error:
            _log.error("names.jsonl can't be compacted now: %s", error)
            self._next_bytes = before + _RETRY_BYTES
            return
        after = self._state.journal.size
        self._next_bytes = max(_LEAST_BYTES, 2 * after)
        _log.info("compacted names.jsonl from %d to %d bytes", before, after)

    def _compact(self) -> None:
        with self._state.read_facts() as facts:
            most = facts.totals.names() + _MOVES_BESIDE_NAMES
        with self._state.use_facts():
            self._state.facts.forget_moves(most)
        try:
            self._state.facts.sync_log()
            with self._state.read_facts() as facts:
                self._state.journal.replace(facts.moves())
        except OSError as error:
            raise store_error("the new journal can't be written", error) from error
