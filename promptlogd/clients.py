"""State that all connections share: counts, budgets, and whether any request is still in progress."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import trio

from promptlogd.arrivals import Arrivals
from promptlogd.budget import Budgets
from promptlogd.turns import Turns


class Clients:
    """State that all connections share. Each connection updates the counts."""

    def __init__(self, *, most: int, turns: Turns, on_refusal: Callable[[int, str | None, str], None]) -> None:
        """`most`: maximum number of connections. `turns`: those of the event loop. `on_refusal`: called with uid,
        tenant and code of each refusal."""
        self.on_refusal = on_refusal
        self.connected = 0
        self.budgets = Budgets(connections=most, turns=turns)
        self.arrivals = Arrivals()
        self.draining = False
        """Whether the daemon is stopping and accepts no more requests."""
        self.unanswered = 0
        """Requests that have started and have no reply yet."""
        self.unsent: set[int] = set()
        """Numbers of the connections with unsent replies."""
        self.errors: Counter[str] = Counter()
        """Error replies by code."""
        self.quotas: Counter[str] = Counter()
        """Error replies with the code `quota`, by the quota."""
        self._idle = trio.Event()

    def wake_if_idle(self) -> None:
        """Wake `wait_idle` if nothing is in progress. Call this when a request ends or replies have been sent."""
        if not self.unanswered and not self.unsent:
            self._idle.set()

    async def wait_idle(self) -> None:
        """Wait until all requests are answered and all replies are sent."""
        while self.unanswered or self.unsent:
            self._idle = trio.Event()
            await self._idle.wait()
