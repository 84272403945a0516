"""The daemon's clients as a whole: how many there are, and whether anything of theirs is still in progress."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import trio

from promptlogd.arrivals import Arrivals
from promptlogd.budget import Budgets


class Clients:
    """What all connections share: counts, which each connection keeps up to date, budgets, and wake-ups."""

    def __init__(self, *, most: int, on_refusal: Callable[[int, str | None, str], None]) -> None:
        """`most`: how many there may be. `on_refusal`: called with the uid, the tenant and the code of each refusal."""
        self.on_refusal = on_refusal
        self.connected = 0
        self.budgets = Budgets(connections=most)
        self.arrivals = Arrivals()
        self.draining = False
        """Whether no more requests are taken, since the daemon stops."""
        self.unanswered = 0
        """Requests that were begun and have no reply yet."""
        self.unsent: set[int] = set()
        """Numbers of the connections that replies wait for."""
        self.errors: Counter[str] = Counter()
        """Error replies by code."""
        self._idle = trio.Event()

    def wake_if_idle(self) -> None:
        """Wake `wait_idle` if nothing is in progress. To be called when a request ends, or replies have gone out."""
        if not self.unanswered and not self.unsent:
            self._idle.set()

    async def wait_idle(self) -> None:
        """Wait until all requests are answered, and all replies have gone out."""
        while self.unanswered or self.unsent:
            self._idle = trio.Event()
            await self._idle.wait()
