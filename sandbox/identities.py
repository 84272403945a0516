"""Who jailed processes are to the host: a uid and a gid of its own for each jail, where the daemon may set uids.

Processes of one uid can signal each other, and share the kernel's bounds for that uid. So two jails should not share
one, and no other process of the host should have it either.
"""

from __future__ import annotations

import os
import pwd
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from sandbox.claim import Claim, claim_new

NOBODY = 65534
RANGE_IDS = 16384
"""Ids that one daemon claims for its jails: several times as many as it has jails under any configuration."""

_FIRST = 2_013_265_920
_RANGES = 8192
"""From there to 2,147,483,647 nobody allocates ids: see systemd's UIDS-GIDS; SSSD's ranges end at 2,000,200,000."""

_TRIES = 64
"""Daemons that one host may have, each with a range: a search that finds none free ends after so many."""

_LEAST_IDS = 1024
"""A subordinate range with fewer ids is passed over: it could be too small for the jails of one daemon."""

_CAP_SETGID, _CAP_SETUID = 6, 7
RANGE_CLAIM = "promptlog-uids-"
"""Prefix of the folders that say which ranges daemons have."""


class IdentityError(Exception):
    """The ids that the configuration names can't be used. `why` says how to mend it."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """A jailed process's uid and gid, seen from outside of its user namespace."""

    uid: int
    gid: int


class Identities:
    """Hands each jail an identity: its own, from a range, or the same to all. Made by `choose`."""

    def __init__(self, uids: range, gids: range, *, why_shared: str = "", claim: Claim | None = None) -> None:
        """`uids`, `gids`: of equal length. `why_shared`: why all jails share the first; empty: none do."""
        self._uids = uids
        self._gids = gids
        self._why_shared = why_shared
        self._claim = claim
        self._next = 0
        self._returned: deque[Identity] = deque()

    @property
    def shared(self) -> bool:
        """Whether all jails have the same identity."""
        return bool(self._why_shared)

    def describe(self) -> str:
        """Return `own: ...` or `shared: ...`, with the reason, in one line."""
        if self.shared:
            return f"shared: all jails have uid {self._uids[0]}, since {self._why_shared}"
        return f"own: each jail has one of {len(self._uids)} uids from {self._uids[0]} on"

    def take(self) -> Identity | None:
        """Return an identity that no jail has; None if all are in use.

        Identities that were never used come first, then returned ones, the oldest return first.
        """
        if self.shared:
            return Identity(uid=self._uids[0], gid=self._gids[0])
        if self._next < len(self._uids):
            self._next += 1
            return Identity(uid=self._uids[self._next - 1], gid=self._gids[self._next - 1])
        return self._returned.popleft() if self._returned else None

    def give_back(self, identity: Identity) -> None:
        """Take back an identity whose jail has no process left."""
        if not self.shared:
            self._returned.append(identity)

    def close(self) -> None:
        """Let other daemons have the range."""
        if self._claim is not None:
            with suppress(OSError):
                self._claim.folder.rmdir()
            self._claim.release()


def choose(configured: tuple[int, int] | None, *, claims: Path, seed: int) -> Identities:
    """Choose a range for this daemon: the configured (first id, number of ids), /etc/subuid's, or one that is unused.

    `claims`: the folder in which daemons claim ranges. `seed`: where the search starts, so that a state folder usually
    gets the same range again.
    Raises IdentityError if a configured range can't be used.
    """
    if not may_set_ids():
        why = "the daemon may not set uids (that takes root, or CAP_SETUID and CAP_SETGID)"
        if configured is not None:
            raise IdentityError(f"pool.uids is set, but {why}")
        return shared(why)
    if configured is not None:
        ids = range(configured[0], configured[0] + configured[1])
        if not (_is_mapped(ids, "uid_map") and _is_mapped(ids, "gid_map")):
            raise IdentityError(f"pool.uids: ids {ids.start} to {ids.stop - 1} are not mapped in this user namespace")
        return Identities(ids, ids)
    for uids, gids in _candidate_ranges(seed):
        if not (_is_mapped(uids, "uid_map") and _is_mapped(gids, "gid_map")):
            continue
        try:
            claim = claim_new(claims / f"{RANGE_CLAIM}{uids.start}", 0o700)
        except BlockingIOError:  # another daemon has it
            continue
        except OSError as error:
            return shared(f"no range of uids can be claimed in {claims}: {error.strerror or error}")
        return Identities(uids, gids, claim=claim)
    return shared("this user namespace maps no uids for jails; name some that it maps in pool.uids")


def shared(why: str) -> Identities:
    """Return one identity for all jails: nobody's for root, else this user's own.

    Without capabilities a user can map no uid but its own (user_namespaces(7)).
    """
    uid, gid = (NOBODY, NOBODY) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
    return Identities(range(uid, uid + 1), range(gid, gid + 1), why_shared=why)


def _candidate_ranges(seed: int) -> Iterator[tuple[range, range]]:
    """Yield ranges of uids and gids to try: those that /etc/subuid and /etc/subgid give this user go first."""
    uids, gids = _subordinate(Path("/etc/subuid")), _subordinate(Path("/etc/subgid"))
    count = min(len(uids), len(gids))
    parts = max(1, count // RANGE_IDS) if count >= _LEAST_IDS else 0
    for number in range(parts):
        start = (seed + number) % parts * RANGE_IDS
        end = min(start + RANGE_IDS, count)
        yield uids[start:end], gids[start:end]
    for number in range(_TRIES):
        first = _FIRST + (seed + number) % _RANGES * RANGE_IDS
        ids = range(first, first + RANGE_IDS)
        yield ids, ids


def _subordinate(file: Path) -> range:
    """Return the first range that a file like /etc/subuid gives this user (subuid(5)); an empty one for none."""
    try:
        names = {str(os.geteuid()), pwd.getpwuid(os.geteuid()).pw_name}
    except KeyError:
        names = {str(os.geteuid())}
    try:
        lines = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return range(0)
    for line in lines:
        name, *numbers = line.split(":")
        if name in names and len(numbers) == 2 and all(number.isdigit() for number in numbers):
            return range(int(numbers[0]), int(numbers[0]) + int(numbers[1]))
    return range(0)


def may_set_ids() -> bool:
    """Whether this process may give others any uid and gid (capabilities(7))."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            held = int(line.split()[1], 16)
            return bool(held >> _CAP_SETUID & 1 and held >> _CAP_SETGID & 1)
    return False


def _is_mapped(ids: range, map_name: str) -> bool:
    """Whether one line of this user namespace's map has all of these ids (user_namespaces(7))."""
    for line in Path("/proc/self", map_name).read_text().splitlines():
        first, _, count = map(int, line.split())
        if first <= ids.start and ids.stop <= first + count:
            return True
    return False
