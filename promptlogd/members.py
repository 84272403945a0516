"""Looks up the users and groups in lists of the configuration."""

from __future__ import annotations

import grp
import pwd
from collections.abc import Collection, Sequence

import msgspec

EVERYONE = "*"
GROUP_MARK = "@"


class NoSuchMember(Exception):
    """There is no user or group of this name."""

    def __init__(self, what: str) -> None:
        """`what`: such as: user 'alice'."""
        super().__init__(f"there is no {what}")
        self.what = what


class Members(msgspec.Struct, frozen=True, kw_only=True):
    """Users, by uid, and members of groups, by gid; or everyone."""

    everyone: bool = False
    uids: frozenset[int] = frozenset()
    gids: frozenset[int] = frozenset()

    def has(self, uid: int, gids: Collection[int]) -> bool:
        """Whether a process with this uid and these groups is a member."""
        return self.everyone or uid in self.uids or not self.gids.isdisjoint(gids)


def find_members(entries: Sequence[int | str]) -> Members:
    """Look up the entries of a list: uids, names of users, "@GROUP", "*". May wait for another host.

    Raises NoSuchMember.
    """
    uids: set[int] = set()
    gids: set[int] = set()
    for entry in entries:
        if isinstance(entry, int):
            uids.add(entry)
        elif entry.startswith(GROUP_MARK):
            gids.add(_gid(entry.removeprefix(GROUP_MARK)))
        elif entry != EVERYONE:
            uids.add(_uid(entry))
    return Members(everyone=EVERYONE in entries, uids=frozenset(uids), gids=frozenset(gids))


def _uid(name: str) -> int:
    try:
        return pwd.getpwnam(name).pw_uid
    except (KeyError, ValueError):  # a ValueError: the name has a NUL
        raise NoSuchMember(f"user {name!r}") from None


def _gid(name: str) -> int:
    if name.isascii() and name.isdecimal():
        return int(name)
    try:
        return grp.getgrnam(name).gr_gid
    except (KeyError, ValueError):
        raise NoSuchMember(f"group {name!r}") from None
