"""Checks whether a principal has the right that a request requires (docs/access.md)."""

from __future__ import annotations

import os

from promptlogd.access import Right
from promptlogd.principal import Principal
from promptlogd.refusal import RequestError
from promptlogd.settings import Settings
from promptlogd.store import Holder, Viewer, Visibility

_ROOT = 0
_MOST_VIEWERS = 10_000


class Rights:
    """The rights in force."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._viewers: dict[tuple[int, frozenset[int], str | None, bool], Viewer] = {}
        self._of_everyone: frozenset[str] = frozenset()
        """Rights that need no look at who asks."""
        settings.on_adopted(self._adopt)
        self._adopt()

    def _adopt(self) -> None:
        self._viewers.clear()
        rights = self._settings.access.rights
        self._of_everyone = frozenset(right for right in rights if right != "manage" and rights[right].everyone)

    def has(self, principal: Principal, right: Right) -> bool:
        """Whether a principal has a right. A tenant has `manage` only if its front gives it."""
        if right == "manage" and principal.tenant is not None and not principal.manages:
            return False
        return self._settings.access.has(right, principal.uid, principal.gids)

    def viewer(self, principal: Principal) -> Viewer:
        """Return what a principal sees of the store."""
        key = (principal.uid, principal.gids, principal.tenant, principal.manages)
        viewer = self._viewers.get(key)
        if viewer is None:
            if len(self._viewers) >= _MOST_VIEWERS:
                self._viewers.clear()
            viewer = self._viewers[key] = Viewer(
                uid=principal.uid,
                tenant=principal.tenant,
                gids=principal.gids,
                owns_user=principal.tenant is None or principal.manages,
                manages=self.has(principal, "manage"),
            )
        return viewer

    def holder(self, principal: Principal, visibility: Visibility | None) -> Holder:
        """Return a principal as the owner of something new. `visibility`: as requested by the client."""
        return Holder(
            uid=principal.uid,
            tenant=principal.tenant,
            gid=principal.gid,
            visibility=visibility or self._settings.config.store.visibility,
        )

    def require(self, principal: Principal, right: Right) -> None:
        """Raise RequestError unless a principal has a right."""
        if right in self._of_everyone or self.has(principal, right):
            return
        whose = f"uid {principal.uid}" if principal.tenant is None else f"this tenant of uid {principal.uid}"
        raise RequestError(
            "forbidden",
            f"this requires the right `{right}`, which {whose} does not have: see `rights` in the configuration",
            {"right": right},
        )


def refuse_others(principal: Principal, what: str) -> None:
    """Raise RequestError unless the client is root or the daemon's own user."""
    if principal.uid not in (_ROOT, os.geteuid()) or (principal.tenant is not None and not principal.manages):
        raise RequestError(
            "forbidden",
            f"{what} is for root and for the daemon's user (uid {os.geteuid()}), and you are uid {principal.uid}",
        )
