"""Which clients may send requests that are for operators."""

from __future__ import annotations

import os

from promptlogd.principal import Principal
from promptlogd.refusal import RequestError

_ROOT = 0


def refuse_others(principal: Principal, what: str) -> None:
    """Raise RequestError unless the client is root or the daemon's own user."""
    if principal.uid not in (_ROOT, os.geteuid()):
        raise RequestError(
            "forbidden",
            f"{what} is for root and for the daemon's user (uid {os.geteuid()}), and you are uid {principal.uid}",
        )
