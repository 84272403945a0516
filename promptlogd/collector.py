"""Removes unused programs: on request, for a submit that needs space, and on a timer. Its methods block."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from typing import TypeVar

import msgspec

from promptlogd.config import StoreSettings
from promptlogd.journal import Entry, Journal
from promptlogd.log_fields import about
from promptlogd.log_rate import HASH_SHOWN
from promptlogd.steady_clock import SteadyClock
from promptlogd.store import BadReference, Fact, Store, StoreOverQuota, is_hash

_log = logging.getLogger(__name__)
_R = TypeVar("_R")

_DAY_S = 86400.0
IN_USE_S = 3600.0
"""A program that was submitted or run within this time is not removed to make room for another."""
_PAGE = 100
"""Programs that are removed at once. Each takes the writers' lock for a few milliseconds."""
_RETRY_S = 1.0
"""If there was nothing to remove, submits do not look again within this time, because each look reads all rows."""


class Collected(msgspec.Struct, frozen=True, kw_only=True):
    """A program that was removed, or would be: its hash, its disk space, and the time of its last use."""

    hash: str
    size: int
    used_at: float


class Collection(msgspec.Struct, frozen=True, kw_only=True):
    """Programs that were removed, the disk space of the store after that, and the cursor of the next page."""

    programs: list[Collected]
    store_bytes: int
    next: str | None = None


class Who(msgspec.Struct, frozen=True, kw_only=True):
    """The client for which programs are removed: its uid and tenant in the journal."""

    uid: int
    tenant: str | None = None


class Collector:
    """Removes programs without names. Thread-safe."""

    def __init__(self, store: Store, journal: Journal, settings: StoreSettings, *, own_uid: int) -> None:
        """`own_uid`: the uid in the journal for programs that the timer removes."""
        self._store = store
        self._journal = journal
        self._settings = settings
        self._own = Who(uid=own_uid)
        self._making_room = threading.Lock()
        self._in_vain_at = -math.inf
        self._clock = SteadyClock()
        self._timer_at: float | None = None
        """Time at which the timer began its work; None while the clock may be wrong."""

    def page(
        self,
        who: Who,
        *,
        unused_s: float,
        over_bytes: int | None,
        dry_run: bool = False,
        limit: int = _PAGE,
        after: str | None = None,
        now: float | None = None,
    ) -> Collection:
        """Remove programs that were unused for `unused_s`. With `over_bytes`, stop when the store takes at most that.

        `dry_run`: remove nothing. `after`: the `next` of the previous page. `now`: the time to which ages refer, if it
        is not that of the wall clock. Raises BadReference, StoreFailed.
        """
        begin, freed = (None, 0) if after is None else _position(after)
        usage = self._store.usage
        used = usage.count() if after is None else usage.bytes
        excess = math.inf if over_bytes is None else used - over_bytes - (freed if dry_run else 0)
        before = (time.time() if now is None else now) - unused_s
        facts = self._store.unused(before, limit + 1, begin)
        gone: list[Collected] = []
        for fact in facts[:limit]:
            if excess <= 0:
                break
            size = self._store.bytes_of(fact.hash) if dry_run else self._removed(fact, who)
            if size is not None:
                gone.append(Collected(hash=fact.hash, size=size, used_at=fact.used_at))
                excess -= size
                freed += size
        more = len(facts) > limit and excess > 0
        next = f"{facts[limit - 1].used_at.hex()}:{facts[limit - 1].hash}:{freed}" if more else None
        return Collection(programs=gone, store_bytes=used - freed if dry_run else usage.bytes, next=next)

    def _removed(self, fact: Fact, who: Who) -> int | None:
        size = self._store.remove_unused(fact)
        if size is not None:
            unused = (time.time() - fact.used_at) / _DAY_S
            _log.info(
                "collected program %s for uid %d: no name, unused for %.1f days",
                fact.hash[:HASH_SHOWN],
                who.uid,
                unused,
                extra=about("collect", uid=who.uid, tenant=who.tenant, hash=fact.hash, engine=fact.engine),
            )
            self._journal.note(
                Entry(
                    at=time.time(), kind="remove", uid=who.uid, tenant=who.tenant, hash=fact.hash, engine=fact.engine,
                    outcome="collected",
                )
            )  # fmt: skip
        return size

    def store(self, who: Who, step: Callable[[], _R]) -> _R:
        """Return the result of a step that stores something. If it exceeds the quota, make room and repeat it.

        Raises StoreOverQuota, and what the step raises.
        """
        try:
            return step()
        except StoreOverQuota as error:
            self._make_room(error.needed, who)
            return step()

    def _make_room(self, size: int, who: Who) -> None:
        """Make room for this number of bytes in the quota, as far as that is possible. Raises StoreFailed.

        Removes files from `damaged/` first: a damaged database there can take more space than all programs.
        """
        usage = self._store.usage
        if not usage.lacking(size):
            return
        with self._making_room:
            if not usage.lacking(size) or time.monotonic() - self._in_vain_at < _RETRY_S:
                return
            assert usage.max_bytes is not None
            self._store.drop_damaged(usage.lacking(size))
            after: str | None = None  # the first page counts anew: somebody may have removed files from damaged/
            while lacking := usage.lacking(size):
                # A hundredth more than is needed, so that not each submit has to look.
                over_bytes = usage.bytes - lacking - usage.max_bytes // 100
                page = self.page(who, unused_s=IN_USE_S, over_bytes=over_bytes, after=after)
                after = page.next
                if after is None:
                    break
            if usage.lacking(size):
                self._in_vain_at = time.monotonic()

    @property
    def has_timer(self) -> bool:
        """Whether the settings require the timer, because they limit the age of programs or the disk space."""
        return self._settings.unused_days is not None or self._settings.max_mb is not None

    def next_page(self, after: str | None) -> str | None:
        """Do a part of the timer's work. Return the argument of the next call, or None if the work is complete."""
        days = self._settings.unused_days
        if after is None:
            self._timer_at = self._clock.read(time.time(), time.monotonic())
        if days is not None and self._timer_at is not None:
            page = self.page(self._own, unused_s=days * _DAY_S, over_bytes=None, after=after, now=self._timer_at)
            if page.next is not None:
                return page.next
        else:
            self._store.usage.count()
        self._make_room(0, self._own)  # the quota may be smaller than before, or `damaged/` larger
        return None


def _position(after: str) -> tuple[tuple[float, str], int]:
    """Return the position that a cursor means: (time of the last use, hash), and the bytes freed so far."""
    try:
        at, hash, freed = after.split(":")
        used_at, freed_bytes = float.fromhex(at), int(freed)
    except (ValueError, OverflowError):
        used_at, hash, freed_bytes = math.nan, "", 0
    if not (math.isfinite(used_at) and is_hash(hash) and 0 <= freed_bytes < 2**63):
        raise BadReference(f"{after!r:.80} is not a cursor; give the `next` of the previous page")
    return (used_at, hash), freed_bytes
