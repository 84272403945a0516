"""Moves names: first in the journal, then in SQLite; in both or in neither."""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec

from promptlogd.store.compaction import Compaction
from promptlogd.store.errors import NameTaken, NotFound, NotYours, StoreFailed, TooManyNames
from promptlogd.store.holders import MANAGER, Holder, Viewer, Visibility
from promptlogd.store.journal import Move
from promptlogd.store.records import HolderQuota
from promptlogd.store.references import before
from promptlogd.store.state_folder import StateFolder

MOST_NAMES_OF_PROGRAM = 64
"""Maximum number of names of one program. `show` and `list` send all of them, and a removal removes all of them."""
MOST_NAMES_OF_OTHERS = 32
"""Maximum number of names of one program that belong to users and tenants that are not its holders. So they cannot
prevent the holders from naming the program."""
MOST_NAMES = 100_000
"""Maximum number of names. The last move of each stays in the journal: 19 MB."""
_MOVES_BACK = 1000
"""Maximum number of moves of a name that can be undone. A compaction may leave fewer. Reading them takes 2 ms."""


class Labeller(msgspec.Struct, frozen=True, kw_only=True):
    """Who moves a name."""

    viewer: Viewer = MANAGER
    new_owner: Holder
    """The owner of the name if it is new."""
    quotas: Sequence[HolderQuota] = ()
    """Quotas of the owner."""
    visibility: Visibility | None = None
    """The requested visibility. None: unchanged, or for a new name that of `new_owner`."""

    def may_move(self, owner: Holder) -> bool:
        """Whether it may move a name of this owner."""
        return self.viewer.owns(owner.uid, owner.tenant)

    def owned(self, name: str, owner: Holder | None) -> Holder:
        """Return the owner of a name after the move. `owner`: the one before. Raises NotYours."""
        if owner is None:
            return self.new_owner
        if not self.may_move(owner):
            raise NotYours(f"the name {name} belongs to another user; choose another name")
        if self.visibility is None or self.visibility == owner.visibility:
            return owner
        # Even if a manager or another tenant makes the change, the group is that of the owner.
        gid = self.new_owner.gid if owner.owner == self.new_owner.owner else owner.gid
        return msgspec.structs.replace(owner, visibility=self.visibility, gid=gid)


class Placing(msgspec.Struct, frozen=True, kw_only=True):
    """How a name is given to a program. `owner`: the owner that the move records; None if no move is necessary.
    `moved_from`: the other program that had the name."""

    owner: Holder | None
    moved_from: str | None


class Names:
    """Moves names. The caller holds the writers' lock."""

    def __init__(self, state: StateFolder) -> None:
        self._state = state
        self._compaction = Compaction(state)

    def label(self, name: str, hash: str | None, labeller: Labeller) -> tuple[str, str | None]:
        """Move a name to a program, or undo its last move. Return (new hash, previous hash).

        Raises NotFound if the program does not exist or there is no move to undo; NotYours, TooManyNames, OverQuota,
        StoreFailed.
        """
        with self._state.read_facts() as facts:
            previous, owner = facts.named(name), facts.name_owner(name)
            history = facts.history(name, _MOVES_BACK) if hash is None else []
        owned = labeller.owned(name, owner)
        if hash is None:
            hash, back = before(name, history, lambda other: self._is_seen(other, labeller.viewer))
            self._check_room(name, hash, owned, labeller)
            self.move(name, hash, owned, back=back)
        elif not self._is_seen(hash, labeller.viewer):
            raise NotFound(hash)
        elif (previous, owner) != (hash, owned):
            self._check_room(name, hash, owned, labeller)
            self.move(name, hash, owned)
        return hash, previous if previous is None or self._is_seen(previous, labeller.viewer) else None

    def _is_seen(self, hash: str, viewer: Viewer) -> bool:
        if not self._state.objects.has(hash):
            return False
        if viewer.manages:
            return True
        with self._state.read_facts() as facts:
            return viewer.sees_any(facts.holders.of(hash))

    def place(self, name: str, hash: str, labeller: Labeller, *, moves: bool) -> Placing:
        """Return how to give a name to this program. `moves`: whether the name may be moved from another program.

        Raises NotYours, NameTaken, TooManyNames, OverQuota, StoreFailed.
        """
        with self._state.read_facts() as facts:
            previous, owner = facts.named(name), facts.name_owner(name)
        if previous is not None and owner is not None and not labeller.may_move(owner):
            sees = labeller.viewer.sees(owner) and self._is_seen(previous, labeller.viewer)
            if previous == hash and sees:
                return Placing(owner=None, moved_from=None)
            if sees and not moves:
                raise NameTaken(name, previous)
        owned = labeller.owned(name, owner)
        if previous not in (None, hash) and not moves:
            raise NameTaken(name, str(previous))
        self._check_room(name, hash, owned, labeller)
        unchanged = (previous, owner) == (hash, owned)
        return Placing(owner=None if unchanged else owned, moved_from=None if previous == hash else previous)

    def _check_room(self, name: str, hash: str, owned: Holder, labeller: Labeller) -> None:
        """Check that a program may get this name. `owned`: the owner of the name afterwards.

        Raises TooManyNames if the program or the store has the maximum number of names; OverQuota, StoreFailed.
        """
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
            if not labeller.viewer.manages and facts.holders.of_others(hash, owned) >= MOST_NAMES_OF_OTHERS:
                raise TooManyNames(
                    f"program {hash} has {MOST_NAMES_OF_OTHERS} names of users who have not submitted it, the maximum; "
                    "use one of them, or submit the program first",
                    MOST_NAMES_OF_OTHERS,
                )
            if previous is not None:
                return
            for quota in labeller.quotas:
                quota.check(facts.totals.of(quota.uid, quota.tenant), names=1)
            if facts.totals.names() >= MOST_NAMES:
                raise TooManyNames(
                    f"there are {MOST_NAMES} names, the maximum; move an existing name, or remove programs that "
                    "have names",
                    MOST_NAMES,
                )

    def move(self, name: str, hash: str, owner: Holder, *, back: int = 0) -> None:
        """Move a name to a program, atomically. `owner`: of the name from now on. Raises StoreFailed."""
        self._compaction.compact_if_long()
        move = Move(
            name=name,
            hash=hash,
            at=time.time(),
            back=back,
            uid=owner.uid,
            tenant=owner.tenant,
            gid=owner.gid,
            visibility=owner.visibility,
        )
        end = self._state.journal.append([move])
        try:
            self._state.apply([move])
        except StoreFailed:
            self._state.journal.cut(end)
            raise
