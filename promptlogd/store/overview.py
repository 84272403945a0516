"""The contents of replies to `list` and `show`, with their bounds; and writing how programs were used to SQLite."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from msgspec.structs import replace

from promptlogd.store.counts import total_runs
from promptlogd.store.errors import NotFound, StoreFailed
from promptlogd.store.holders import Credits, Viewer
from promptlogd.store.journal import Move
from promptlogd.store.lookups import Fact, Lookups
from promptlogd.store.names import MOST_NAMES_OF_PROGRAM
from promptlogd.store.records import Page, Row, Shown
from promptlogd.store.references import cursor, place
from promptlogd.store.state_folder import StateFolder

_log = logging.getLogger(__name__)

MOST_NAMES_SHOWN = 1000
"""Maximum number of names in a reply to `show` or `remove`: 70 KB. Only programs of older folders have that many."""
MOST_MOVES_SHOWN = 64
"""Newest moves of each name in a reply to `show`: the number that a compaction keeps.

For the maximum number of names of a program, this is 0.4 MB of JSON, which takes 0.2 ms to encode.
"""
_PAGE_BYTES = 256 << 10
"""JSON size at which a page of `list` ends: about 0.2 ms to encode."""
_ROW_BYTES = 200
"""Approximate JSON size of a program in a page, without its names."""
_FLUSH_WAIT_S = 0.1
"""Time limit for waiting for a flush. After that, a reply may lack the run counts that the flush is writing."""


class Overview:
    """Answers `list` and `show`, and writes run counts to SQLite. Thread-safe."""

    def __init__(self, state: StateFolder) -> None:
        self._state = state
        self._flushing = threading.Lock()
        """Held while run counts and repeated submits are written to SQLite."""
        self._last_flush_succeeded = True

    def show(self, hash: str, viewer: Viewer) -> Shown:
        """Return the facts of a program, its names, and their moves, as far as a viewer sees them. Raises NotFound."""
        with self.counts_at_rest(), self._state.read_facts() as facts:
            fact, holders = facts.get(hash), facts.holders.of(hash)
            if fact is None or not viewer.sees_any(holders):
                raise NotFound(hash)
            if not viewer.manages:
                first = next(filter(viewer.sees, holders))
                fact = replace(fact, created_at=first.at, created_by=first.uid)
            names, more = _names_on(hash, facts, MOST_NAMES_SHOWN, viewer)
            with_history = names[:MOST_NAMES_OF_PROGRAM]
            return Shown(
                fact=self._with_runs(fact, facts, viewer),
                names=names,
                more_names=more,
                history=_seen_moves(
                    {name: facts.history(name, MOST_MOVES_SHOWN) for name in with_history}, facts, viewer
                ),
                holders=[holder for holder in holders if viewer.owns(holder.uid, holder.tenant)],
            )

    def list(self, limit: int, after: str | None, viewer: Viewer) -> Page:
        """Return a page of the programs that a viewer sees, newest first. Raises BadReference for an invalid cursor.

        A page has `limit` programs, or fewer (newest.py), for example if they have many names.
        """
        begin = None if after is None else place(after)
        rows: list[Row] = []
        size = 0
        with self.counts_at_rest(), self._state.read_facts() as facts:
            found, next = facts.newest(limit, begin, viewer)
            for at, hash in found:
                fact = facts.get(hash)
                if fact is None:
                    continue
                names, more = _names_on(hash, facts, MOST_NAMES_OF_PROGRAM, viewer)
                rows.append(
                    Row(
                        fact=self._with_runs(replace(fact, created_at=at), facts, viewer),
                        names=names,
                        more_names=more,
                        visibility=facts.holders.own_visibility(hash, viewer),
                    )
                )
                size += _ROW_BYTES + sum(map(len, names))
                if size > _PAGE_BYTES and (at, hash) != found[-1]:
                    next = (at, hash)
                    break
        return Page(rows=rows, next=None if next is None else cursor(next))

    @contextmanager
    def counts_at_rest(self) -> Iterator[bool]:
        """Prevent `flush` from writing counts during this block. Yields False if a flush still waits for the disk."""
        locked = self._flushing.acquire(timeout=_FLUSH_WAIT_S)
        try:
            yield locked
        finally:
            if locked:
                self._flushing.release()

    def _with_runs(self, fact: Fact, facts: Lookups, viewer: Viewer) -> Fact:
        """Return the facts with the runs that a viewer sees.

        If it included the runs of hidden holders, it would reveal these holders.
        """
        waiting = self._state.counts.get(fact.hash)
        if viewer.manages:
            runs, last_run_at = fact.runs, fact.last_run_at
        else:
            runs, last_run_at = facts.holders.runs_seen(fact.hash, viewer)
            if waiting:
                holders = facts.holders.of(fact.hash)
                credits, seen = Credits(holders), {one.owner for one in holders if viewer.sees(one)}
                waiting = {runner: count for runner, count in waiting.items() if credits.of(runner) in seen}
        if waiting:
            count, at = total_runs(waiting)
            runs, last_run_at = runs + count, max(at, last_run_at or 0.0)
        return replace(fact, runs=runs, last_run_at=last_run_at)

    def flush(self) -> None:
        """Write run counts, and checkpoint SQLite's log if it is long. If the disk fails, the next call retries."""
        try:
            with self._state.reserve.guard_writes():
                self._write_counts()
                self._state.shorten_log()
            self._last_flush_succeeded = True
        except StoreFailed as error:
            if self._last_flush_succeeded:
                _log.error("can't write run counts; keeping them in memory: %s", error)
            self._last_flush_succeeded = False

    def _write_counts(self) -> None:
        with self._flushing:
            runs, submits = self._state.counts.take(), self._state.repeats.take()
            try:
                if runs or submits:
                    with self._state.use_facts():
                        self._state.facts.note_uses(runs, submits)
            except BaseException:
                self._state.counts.put_back(runs)
                self._state.repeats.put_back(submits)
                raise


def _seen_moves(history: dict[str, list[Move]], facts: Lookups, viewer: Viewer) -> dict[str, list[Move]]:
    """Return the moves without those to programs that a viewer does not see."""
    if viewer.manages:
        return history
    hashes = {move.hash for moves in history.values() for move in moves if move.hash is not None}
    hidden = {hash for hash in hashes if not viewer.sees_any(facts.holders.of(hash))}
    return {name: [move for move in moves if move.hash not in hidden] for name, moves in history.items()}


def _names_on(hash: str, facts: Lookups, most: int, viewer: Viewer) -> tuple[list[str], int]:
    """Return (the first names of a program that a viewer sees, number of further names)."""
    names = facts.names_on(hash, most + 1, viewer)
    if len(names) <= most:
        return names, 0
    return names[:most], facts.count_names_on(hash, viewer) - most
