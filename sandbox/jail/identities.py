"""Identities of jails on the host: each jail has its own uid and gid, if the daemon may set uids.

Processes with one uid can signal each other, and share the kernel's limits for that uid. So two jails should not share
a uid, and no other process of the host should have it either.
"""

from __future__ import annotations

import os
import pwd
import stat
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from sandbox.claim import Claim, claim_new, sweep
from sandbox.user_namespace import NOBODY, is_mapped

RANGE_IDS = 4096
"""Ids that one daemon claims for its jails: many more than there are jails on most hosts."""

_FIRST = 2_013_265_920
_RANGES = 32768
"""Number of candidate ranges. Ids up to 2,147,483,647 are unallocated: see systemd's UIDS-GIDS; SSSD ends at
2,000,200,000."""

_TRIES = 1024
"""Maximum number of ranges that a search tries."""

_CLAIMS = (Path("/run/lock"), Path("/dev/shm"))
"""Sticky folders. Each host has at least one of them."""

_CAP_SETGID, _CAP_SETUID = 6, 7
RANGE_CLAIM = "promptlog-uids-"
"""Prefix of the names of folders that record the ranges of daemons."""


class IdentityError(Exception):
    """The configured ids cannot be used. `why` has the reason and the fix."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """A jailed process's uid and gid on the host, outside of its user namespace."""

    uid: int
    gid: int


class Identities:
    """Assigns identities to jails: each its own from a range, or the same to all. Created by `choose`."""

    def __init__(self, uids: range, gids: range, *, why_shared: str = "", claim: Claim | None = None) -> None:
        """`uids`, `gids`: ranges of equal length. `why_shared`: the reason why all jails share the first id; empty if
        not."""
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
            return f"shared: all jails have uid {self._uids[0]}, because {self._why_shared}"
        return f"own: each jail has one of {len(self._uids)} uids from {self._uids[0]} on"

    def take(self) -> Identity | None:
        """Return a free identity; None if all are in use.

        Unused identities come first, then returned ones in the order of their return.
        """
        if self.shared:
            return Identity(uid=self._uids[0], gid=self._gids[0])
        if self._next < len(self._uids):
            self._next += 1
            return Identity(uid=self._uids[self._next - 1], gid=self._gids[self._next - 1])
        return self._returned.popleft() if self._returned else None

    def give_back(self, identity: Identity) -> None:
        """Return an identity. Its jail must have no process left."""
        if not self.shared:
            self._returned.append(identity)

    def close(self) -> None:
        """Release the range for other daemons."""
        if self._claim is not None:
            with suppress(OSError):
                self._claim.folder.rmdir()
            self._claim.release()


def choose(
    configured: tuple[int, int] | None, *, needed: int, seed: int, claims: Path | None = None, etc: Path = Path("/etc")
) -> Identities:
    """Choose a range for this daemon: the configured (first id, number of ids), /etc/subuid's, or an unused one.

    `needed`: maximum number of ids that the daemon needs. `seed`: start of the search, so that a state folder usually
    gets the same range again. `claims`: folder in which daemons claim ranges; default: one that all daemons of the host
    share. Raises IdentityError if the configured range, or the range for this user, cannot be used.
    """
    claims = claims or _claims_folder()
    if not may_set_ids():
        why = "the daemon may not set uids (this needs root, or CAP_SETUID and CAP_SETGID)"
        if configured is not None:
            raise IdentityError(f"pool.uids is set, but {why}")
        return shared(why)
    sweep(claims, f"{RANGE_CLAIM}*", Path.rmdir)
    if configured is not None:
        return _configured(range(configured[0], configured[0] + configured[1]), claims)
    if needed > RANGE_IDS:
        raise IdentityError(
            f"there can be {needed} jails at the same time, more than {RANGE_IDS}; set pool.uids to that many ids"
        )
    why = "this user namespace maps no uids for jails; name some that it maps in pool.uids"
    for uids, gids in _candidate_ranges(seed, etc):
        if not (is_mapped(uids, "uid_map") and is_mapped(gids, "gid_map")):
            continue
        try:
            claim = _claim_range(uids, claims)
        except (BlockingIOError, PermissionError):  # another daemon has it, or another user's folder has its name
            why = f"other daemons have all ranges of uids (claims are in {claims}); name one in pool.uids"
            continue
        except OSError as error:
            return shared(f"no range of uids can be claimed in {claims}: {error.strerror or error}")
        return Identities(uids, gids, claim=claim)
    return shared(why)


def _configured(ids: range, claims: Path) -> Identities:
    if not (is_mapped(ids, "uid_map") and is_mapped(ids, "gid_map")):
        raise IdentityError(f"pool.uids: ids {ids.start} to {ids.stop - 1} are not mapped in this user namespace")
    try:
        return Identities(ids, ids, claim=_claim_range(ids, claims))
    except BlockingIOError:
        raise IdentityError(f"pool.uids: another daemon has the ids from {ids.start} on") from None
    except OSError as error:
        raise IdentityError(f"pool.uids: the ids can't be claimed in {claims}: {error.strerror or error}") from None


def _claim_range(uids: range, claims: Path) -> Claim:
    return claim_new(claims / f"{RANGE_CLAIM}{uids.start}", 0o700, wait_s=0.0)


def _claims_folder() -> Path:
    """Return a folder that all users can write to, and in which nobody can remove another user's claim."""
    for folder in _CLAIMS:
        with suppress(OSError):
            status = folder.lstat()
            if stat.S_ISDIR(status.st_mode) and status.st_uid == 0 and status.st_mode & stat.S_ISVTX:
                return folder
    return Path("/run")


def shared(why: str) -> Identities:
    """Return one identity for all jails: nobody's if the daemon may map it, otherwise this user's own.

    Without capabilities, a user can map only its own uid (user_namespaces(7)).
    """
    nobody = range(NOBODY, NOBODY + 1)
    if may_set_ids() and is_mapped(nobody, "uid_map") and is_mapped(nobody, "gid_map"):
        return Identities(nobody, nobody, why_shared=why)
    uid, gid = os.geteuid(), os.getegid()
    return Identities(range(uid, uid + 1), range(gid, gid + 1), why_shared=why)


def _candidate_ranges(seed: int, etc: Path) -> Iterator[tuple[range, range]]:
    """Yield ranges of uids and gids to try, first those that /etc/subuid and /etc/subgid give this user.

    Containers of the same user also use these ranges, starting with the first ids. So the last ids are taken.
    """
    uids, gids = _subordinate(etc / "subuid"), _subordinate(etc / "subgid")
    count = min(len(uids), len(gids))
    parts = count // RANGE_IDS
    for number in range(parts):
        end = count - (seed + number) % parts * RANGE_IDS
        yield uids[end - RANGE_IDS : end], gids[end - RANGE_IDS : end]
    for number in range(_TRIES):
        first = _FIRST + (seed + number) % _RANGES * RANGE_IDS
        ids = range(first, first + RANGE_IDS)
        yield ids, ids


def _subordinate(file: Path) -> range:
    """Return the first range that a file like /etc/subuid gives this user (subuid(5)); an empty range if none."""
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
    """Whether this process may set any uid and gid (capabilities(7))."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            held = int(line.split()[1], 16)
            return bool(held >> _CAP_SETUID & 1 and held >> _CAP_SETGID & 1)
    return False
