"""Simulated clients, cells and service times for tests of admission, on trio's mock clock and without processes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import trio

from promptlogd.admission import Admission
from promptlogd.peer import Process
from promptlogd.principal import Principal
from promptlogd.principals import Ticket
from promptlogd.refusal import RequestError
from promptlogd.room import ALWAYS_ROOM, Room


class Cells:
    """Cells of an engine, of which `ready` are ready."""

    def __init__(self, ready: int = 1000) -> None:
        self.count = ready
        self.lent = 0

    def can_lend(self) -> bool:
        """Return whether a cell is ready."""
        return self.count > 0

    def is_last(self) -> bool:
        """Return whether exactly one cell is ready and others are lent."""
        return self.count == 1 and self.lent > 0


def client(connection: int, *, uid: int = 1000, pid: int = 1, tenant: str | None = None) -> Principal:
    """Return a client of this user and process."""
    process = Process(pid=pid, start_ticks=pid)
    return Principal(connection=connection, uid=uid, process=process, tenant=tenant)


class Simulation:
    """An admission whose runs take as much wall time as CPU time, each on its own core."""

    def __init__(self, nursery: trio.Nursery, *, concurrent: int = 4, queue: int = 1000) -> None:
        self.quickjs, self.deno = Cells(), Cells()
        cells = {"quickjs": self.quickjs, "deno": self.deno}
        self.admission = Admission(concurrent=concurrent, queue=queue, queue_bytes=1000, cells=cells)
        self.served_ms: dict[int, float] = defaultdict(float)
        """CPU time used by each user's runs, counted when a run ends."""
        self.waits_ms: dict[int, list[float]] = defaultdict(list)
        """Waiting times of the runs of each connection."""
        self._nursery = nursery

    def run(
        self,
        principal: Principal,
        cpu_ms: float,
        ended: Callable[[], None] = lambda: None,
        *,
        ordinary: bool = True,
        room: Room = ALWAYS_ROOM,
        engine: str = "quickjs",
        sleeps_s: float = 0.0,
    ) -> Ticket:
        """Request a run that sleeps for `sleeps_s`, then uses `cpu_ms` of CPU time, and ends."""
        asked = trio.current_time()

        async def in_cell(ticket: Ticket) -> None:
            await trio.sleep(sleeps_s + cpu_ms / 1000)
            self.served_ms[principal.uid] += cpu_ms
            self.admission.end(ticket, cpu_ms)
            ended()

        def granted(ticket: Ticket | RequestError) -> None:
            assert isinstance(ticket, Ticket)
            self.waits_ms[principal.connection].append((trio.current_time() - asked) * 1000)
            self._nursery.start_soon(in_cell, ticket)

        return self.admission.ask(principal, engine, granted, ordinary=ordinary, room=room)

    def keep_running(self, principal: Principal, cpu_ms: float, *, sleeps_s: float = 0.0) -> None:
        """Request another run whenever one has ended. Call it once for each run that is to be in progress."""
        self.run(principal, cpu_ms, lambda: self.keep_running(principal, cpu_ms, sleeps_s=sleeps_s), sleeps_s=sleeps_s)

    async def run_every(self, principal: Principal, cpu_ms: float, every_s: float, number: int) -> list[float]:
        """Request a run at each interval. Return the sorted waiting times of this connection's runs in ms."""
        for _ in range(number):
            self.run(principal, cpu_ms)
            await trio.sleep(every_s)
        return sorted(self.waits_ms[principal.connection])
