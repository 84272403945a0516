"""Who holds a program, and who sees it (docs/access.md). Pure.

A program is stored once. Each principal that submitted it is a holder, with a separate visibility.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from promptlogd.store.errors import TooManyHolders

Visibility = Literal["own", "group", "all"]

MOST_HOLDERS = 1000
"""Holders of one program: 110 KB of its metadata."""
MOST_HOLDERS_OF_UID = 100
"""Tenants of one user that hold one program. So the tenants of one front cannot use up all holders of a program."""


class Owner(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A user of this host, or a tenant that this user named."""

    uid: int
    tenant: str | None = None


class Holder(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A principal that holds a program or owns a name, and who else sees the program or the name."""

    uid: int
    tenant: str | None = None
    gid: int | None = None
    """The group for the visibility `group`."""
    visibility: Visibility = "all"
    at: float = 0.0
    """Time of the first submit by this principal, in seconds since the epoch."""

    @property
    def owner(self) -> Owner:
        """The principal."""
        return Owner(uid=self.uid, tenant=self.tenant)


class Viewer(msgspec.Struct, frozen=True, kw_only=True):
    """The sender of a request, and what it may see."""

    uid: int
    tenant: str | None = None
    gids: frozenset[int] = frozenset()
    owns_user: bool = True
    """Whether it owns what all tenants of its user own: true for a front's user, and for a tenant with `manage`."""
    manages: bool = False
    """Whether it has the right `manage`, and so may do what any owner may do."""

    @property
    def owner(self) -> Owner:
        """The principal as an owner."""
        return Owner(uid=self.uid, tenant=self.tenant)

    def owns(self, uid: int, tenant: str | None) -> bool:
        """Whether it may do what this principal may do."""
        return self.manages or (uid == self.uid and (self.owns_user or tenant == self.tenant))

    def sees(self, holder: Holder) -> bool:
        """Whether it sees what this holder shows."""
        return (
            holder.visibility == "all"
            or self.owns(holder.uid, holder.tenant)
            or (holder.visibility == "group" and holder.gid in self.gids)
        )

    def sees_any(self, holders: Iterable[Holder]) -> bool:
        """Whether it sees a program with these holders."""
        return self.manages or any(map(self.sees, holders))

    def holds(self, holders: Iterable[Holder]) -> bool:
        """Whether it is one of these holders, or may do what one of them may do."""
        return any(self.owns(holder.uid, holder.tenant) for holder in holders)


MANAGER = Viewer(uid=0, manages=True)
"""A viewer that sees everything, and may do everything."""


def is_public(holders: Iterable[Holder]) -> bool:
    """Whether everyone sees a program with these holders."""
    return any(holder.visibility == "all" for holder in holders)


def with_holder(holders: Sequence[Holder], new: Holder) -> list[Holder]:
    """Return these holders and a new one. It replaces an earlier record of the same principal, but keeps its time.

    Raises TooManyHolders.
    """
    found = [holder for holder in holders if holder.owner != new.owner]
    if len(found) < len(holders):
        at = next(holder.at for holder in holders if holder.owner == new.owner)
        new = msgspec.structs.replace(new, at=at)
    elif len(found) >= MOST_HOLDERS or sum(holder.uid == new.uid for holder in found) >= MOST_HOLDERS_OF_UID:
        raise TooManyHolders(
            "too many users and tenants have stored this program: the maximum is "
            f"{MOST_HOLDERS}, and {MOST_HOLDERS_OF_UID} of one user"
        )
    return [*found, new]


class Credits:
    """Which holder of a program each run counts for.

    The run of a holder counts for this holder. Any other run counts for a holder that shows the program to the viewer,
    if possible one that shows it to everyone. So a viewer sees the run in a count only if it sees that holder.
    """

    def __init__(self, holders: Sequence[Holder]) -> None:
        self._holders = holders
        self._owners = {holder.owner for holder in holders}
        self._public = next((holder.owner for holder in holders if holder.visibility == "all"), None)

    def of(self, viewer: Viewer) -> Owner | None:
        """Return the holder that a run by this viewer counts for; None if the viewer does not see the program."""
        if viewer.owner in self._owners:
            return viewer.owner
        return self._public or next((holder.owner for holder in self._holders if viewer.sees(holder)), None)


def without_holders(holders: Sequence[Holder], viewer: Viewer) -> list[Holder]:
    """Return these holders without those whose program the viewer may remove."""
    return [holder for holder in holders if not viewer.owns(holder.uid, holder.tenant)]
