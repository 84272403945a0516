"""Scheduling of runs: hierarchical start-time fair queueing, with one slot reserved for light clients.

Principals form a tree: user, process, connection. A tenant that a front names stands between the user and the process.
Each node has a *service*: the CPU time in ms that its runs have used. A free slot goes to the child with the least
service, level by level, and within a connection to its oldest run. So users get equal shares of CPU time, regardless
of the number of their processes and connections. The same holds for the processes of a user.

Each parent has a *clock*: the largest service at which one of its children started a run. A node that was idle
continues at its parent's clock, so that nobody accumulates credit. A new node starts there as well, and pays an entry
fee: the mean charge of a run below its parent. So new processes have no advantage over old ones. A run is charged an
estimate when it starts, and its CPU time when it has ended.

With fair shares only, a short run would wait until one of many long runs ends. So one slot, and the last ready
QuickJS cell, are for light clients only. A client is a tenant, or a process without a tenant. A *light* client has
finished a run, has no running run, and has used little. It waits for at most one other reserved run. With fewer than
three slots, nothing is reserved.

A run can sleep in its slot until its wall limit, at almost no charge. So a run that has had a slot for LONG_S is
*long*: while other runs wait, it returns its slot and continues without one. Its CPU priority is already low. A client
has at most half as many long runs as there are slots, a user three quarters. At its maximum, it starts a run only when
none of its runs has a slot; light clients of such a user still get the reserved slot. So neither can keep all slots for
much longer than LONG_S. With fewer than three slots, no run is long.

A tenant or a user can have a quota of running runs, beyond which it starts none, and of waiting runs, beyond which one
of them is refused (quotas.py).

After SFQ(D): Jin, Chase and Kaur, "Interposed proportional sharing for a storage service utility", 2004.

More than 300 lines, because the queue, the selection and the slots change the same state.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import islice
from typing import Protocol, cast

import trio

from promptlogd.principal import Principal
from promptlogd.principal_tree import Tree
from promptlogd.principals import Granted, Node, Path, Ticket
from promptlogd.quotas import NO_CAPS, Caps, used_up
from promptlogd.refusal import RequestError, busy
from promptlogd.room import ALWAYS_ROOM, Room
from sandbox.limits import MIB
from sandbox.program import Engine

LIGHT_MS = 5.0
"""Upper bound of a light client's mean charge, and of how far its service is ahead of its parent's clock."""

LONG_S = 0.1
"""A run that has had its slot for longer is long. Twice the default CPU limit."""

_LIGHT_LOOKS = 256
"""Light clients that are examined for the reserved slot, longest wait first: 0.5 ms."""

_LEAST_RETRY_MS, _MOST_RETRY_MS = 50, 5000
"""Bounds of `retry_after_ms` of a run that is refused with `busy`."""

_REFUSED_AT_ONCE = 32
"""Runs that are refused in one turn of the loop: 1 ms, including replies. Any number may be overdue."""

_GRANTED_AT_ONCE = 32
"""Runs that get a slot in one turn of the loop: 3 ms, including replies. If a quota is used up, any number of them may
return their slots at once."""

SPECIAL: Engine = ""
"""Stands for the engine of a run for which a cell is started."""


class Cells(Protocol):
    """The cells of one engine."""

    def can_lend(self) -> bool:
        """Whether a run would get an answer at once: a cell, or the reason why there is none."""

    def is_last(self) -> bool:
        """Whether only one cell is ready while others are in use. That cell is reserved for light clients."""


class Admission:
    """Slots for runs, and a bounded queue of waiting runs."""

    def __init__(self, *, concurrent: int, queue: int, queue_bytes: int, cells: Mapping[Engine, Cells]) -> None:
        """`concurrent`: slots. `queue`: runs that may wait. `queue_bytes`: memory that waiting runs may hold."""
        self.free = concurrent
        """Number of free slots."""
        self._slots = concurrent
        self._reserved = 1 if concurrent >= 3 else 0
        self._queue = queue
        self._queue_bytes = queue_bytes
        self._wait_s = math.inf
        self._cells = cells
        self._tree = Tree()
        self._light: dict[Node, None] = {}
        """Clients whose next run can start, that have no running run, and whose runs use little."""
        self._begun: OrderedDict[Ticket, None] = OrderedDict()
        """Runs that have a slot, in the order of their start."""
        self._long = 0
        """Number of long runs: they have started and have returned their slot."""
        slots = concurrent if concurrent >= 3 else 0
        self._most_long, self._most_long_of_user, self._most_long_of_client = slots, slots * 3 // 4, slots // 2
        self.running = 0
        self.finished = 0
        """Number of runs that have ended."""
        self._waiting: OrderedDict[Ticket, None] = OrderedDict()
        """All waiting runs, oldest first."""
        self._any_waiting = trio.Event()
        self._pending: dict[Engine, OrderedDict[Ticket, None]] = {}
        """Waiting runs by engine, oldest first."""
        self._selecting = False
        self._has_caps = False
        """Whether any node has a quota."""
        self._now: Callable[[], float] = trio.current_time
        """Returns trio's time. `serve` replaces it by the method of trio's clock, which saves two calls."""

    @property
    def queued(self) -> int:
        """Number of waiting runs."""
        return len(self._waiting)

    @property
    def remembered(self) -> int:
        """Number of users, tenants, processes and connections that are remembered."""
        return len(self._tree)

    def set_bounds(self, *, queue: int, queue_bytes: int, wait_s: float) -> None:
        """Change the bounds of the queue. Runs that wait already keep their places."""
        self._queue, self._queue_bytes, self._wait_s = queue, queue_bytes, wait_s

    def pending(self, engine: Engine) -> int:
        """Return the number of runs that wait for an engine."""
        return len(self._pending.get(engine, ()))

    # --- from the request to the end of the run -----------------------------------------------------------------------

    def ask(
        self,
        principal: Principal,
        engine: Engine,
        granted: Granted,
        *,
        held_bytes: int = 0,
        ordinary: bool = True,
        room: Room = ALWAYS_ROOM,
        caps: Caps = NO_CAPS,
    ) -> Ticket:
        """Request a slot. `granted` is called once, possibly before this returns, unless `leave` is called first.

        `engine` may be SPECIAL. `held_bytes`: memory that the run holds while it waits. `ordinary`: its limits do not
        exceed the defaults. A client without `room`, because it does not read its replies, gets no slot. `caps`: quotas
        of the principal.
        """
        path = self._tree.path(principal)
        ticket = Ticket(path, engine, granted, held_bytes, ordinary, room)
        if caps is not NO_CAPS or self._has_caps:
            self._set_caps(path, principal, caps)
        for node in path.nodes:
            if not node.running and not node.waiting:
                node.catch_up()
        may_begin = not self._waiting and self.free > self._reserved and self._is_open(engine)
        if may_begin and room.has_room() and not (path.client.held or path.user.held):
            self._begin(ticket)
        else:
            self._enter(ticket)
            self._select()
            if self._has_caps and ticket.waits:
                self._shed_over_quota(ticket.path)
            self._shed()
        return ticket

    def _set_caps(self, path: Path, principal: Principal, caps: Caps) -> None:
        """Note the quotas of a user and a tenant, which may have changed."""
        self._has_caps = True
        path.user.most_running, path.user.most_waiting = caps.user_running, caps.user_waiting
        if principal.tenant is not None:
            path.client.most_running, path.client.most_waiting = caps.tenant_running, caps.tenant_waiting
        self._update_held(path)

    def leave(self, ticket: Ticket) -> None:
        """Remove a run from the queue, if it still waits. `granted` is not called.

        The run behind it on its connection may be able to start now, for example on another engine.
        """
        if ticket.waits:
            self._withdraw(ticket)
            self._tidy(ticket)
            if self._waiting:
                self._select_soon()

    def _select_soon(self) -> None:
        """Call `select` in the next turn of the loop: once, although many runs may leave in this one."""
        with suppress(trio.RunFinishedError):  # the daemon has stopped
            trio.lowlevel.current_trio_token().run_sync_soon(self.select, idempotent=True)

    def end(self, ticket: Ticket, charge_ms: float) -> None:
        """Return the slot of a run, and charge the run's CPU time."""
        self.finished += 1
        path = ticket.path
        path.learn(charge_ms)
        path.charge(charge_ms, ticket.estimates)
        self._take_back(ticket)

    def return_unused(self, ticket: Ticket) -> None:
        """Return the slot of a run that was not executed."""
        ticket.path.charge(0.0, ticket.estimates)
        self._take_back(ticket)

    def forget(self, connection: int) -> None:
        """Note that a connection was closed."""
        self._tree.forget(connection)

    def select(self) -> None:
        """Give free slots to waiting runs. Call this when cells have become ready."""
        if self._waiting:
            self._select()

    async def serve(self, wait_s: float) -> None:
        """Until cancelled: refuse runs that have waited for `wait_s`, and free slots of long runs while others wait.

        A run is refused up to a twentieth of `wait_s` late. One task serves all runs, because a timer for each would
        cost as much as all other work on a waiting run.
        """
        self._wait_s = wait_s
        self._now = trio.lowlevel.current_clock().current_time
        while True:
            await self._any_waiting.wait()
            self._any_waiting = trio.Event()
            refuse_at = trio.current_time() + self._wait_s / 20
            while self._waiting:
                await trio.sleep(LONG_S / 2)
                self.select()
                if trio.current_time() >= refuse_at:
                    await self._refuse_overdue()
                    refuse_at = trio.current_time() + self._wait_s / 20

    async def _refuse_overdue(self) -> None:
        since = trio.current_time() - self._wait_s
        refused = 0
        while self._waiting and (ticket := next(iter(self._waiting))).since <= since:
            self._drop(ticket, self._overdue(ticket))
            refused += 1
            if refused % _REFUSED_AT_ONCE == 0:
                await trio.lowlevel.checkpoint()

    def _overdue(self, ticket: Ticket) -> RequestError:
        """Return the error for a run that has waited too long: for its user's or tenant's own runs, or for others'."""
        for node in (ticket.path.client, ticket.path.user):
            if node.is_capped:
                assert node.most_running is not None
                what = f"{node.most_running} runs at once for {self._wait_s:g} s"
                return used_up(
                    "runs_at_once", node.most_running, what, _whose(ticket.path, node), self._drain_ms / 1000
                )
        return busy(f"no slot became free within {self._wait_s:g} s; try again", self._drain_ms)

    @property
    def _drain_ms(self) -> int:
        """Time in which the slots work off the queue, at the mean charge of a run."""
        drain_ms = len(self._waiting) * (self._tree.root.mean_ms or 1.0) / self._slots
        return round(min(max(drain_ms, _LEAST_RETRY_MS), _MOST_RETRY_MS))

    async def send_away(self, engine: Engine, error: RequestError) -> None:
        """Refuse all runs that wait for an engine, some of them in each turn of the loop."""
        tickets = self._pending.get(engine, OrderedDict())
        for refused in range(1, len(tickets) + 1):
            if not tickets:
                break
            self._drop(next(iter(tickets)), error)
            if refused % _REFUSED_AT_ONCE == 0:
                await trio.lowlevel.checkpoint()

    # --- the queue ----------------------------------------------------------------------------------------------------

    def _enter(self, ticket: Ticket) -> None:
        ticket.waits, ticket.since = True, self._now()
        if not self._waiting:
            self._any_waiting.set()
        self._waiting[ticket] = None
        self._pending.setdefault(ticket.engine, OrderedDict())[ticket] = None
        self._tree.root.waiting_bytes += ticket.held_bytes
        ticket.path.wait(1, ticket.held_bytes)
        tickets = ticket.path.connection.tickets
        tickets.append(ticket)
        if len(tickets) == 1:
            self._offer(ticket)

    def _withdraw(self, ticket: Ticket) -> None:
        """Remove a run from the queue."""
        ticket.waits = False
        del self._waiting[ticket]
        del self._pending[ticket.engine][ticket]
        self._tree.root.waiting_bytes -= ticket.held_bytes
        ticket.path.wait(-1, -ticket.held_bytes)
        connection = ticket.path.connection
        if connection.tickets[0] is not ticket:
            connection.tickets.remove(ticket)
            return
        self._take_offer_back(ticket)
        connection.tickets.popleft()
        if connection.tickets:
            self._offer(connection.tickets[0])

    def _shed(self) -> None:
        """While the queue exceeds a limit, refuse the newest run of the node with the most in it, level by level.

        This is longest queue drop (Suter, Lakshman, Stiliadis and Choudhury, 1998): nobody can fill the queue for
        others.
        """
        root = self._tree.root
        while (many := len(self._waiting) > self._queue) or root.waiting_bytes > self._queue_bytes:
            what = (
                f"{self._queue} runs are waiting"
                if many
                else f"the waiting runs hold {self._queue_bytes / MIB:.0f} MiB"
            )
            error = busy(f"the queue is full: {what}; try again in a moment", self._drain_ms)
            self._drop(root.longest_ticket(by_bytes=not many), error)

    def _shed_over_quota(self, path: Path) -> None:
        """After the arrival of a run: if more runs of its tenant or user wait than the quota allows, refuse one.

        It is chosen as in `_shed`, so that no tenant can fill its user's part of the queue for the others. Runs that
        waited before a reload lowered the quota keep their places, because only one is refused for each arrival.
        """
        for node in (path.client, path.user):
            most = node.most_waiting
            if most is not None and node.waiting > most:
                whose = _whose(path, node)
                error = used_up("queued", most, f"{most} waiting runs", whose, self._drain_ms / 1000)
                self._drop(node.longest_ticket(), error)
                return

    def _drop(self, ticket: Ticket, error: RequestError) -> None:
        self.leave(ticket)
        ticket.granted(error)

    def _offer(self, ticket: Ticket) -> None:
        """Make the oldest run of a connection selectable, once its client reads its replies."""
        if ticket.room.has_room():
            ticket.path.connection.offer(ticket.engine)
            if not ticket.path.client.running:  # otherwise it is not light
                self._update_light(ticket.path.client)
        else:
            ticket.room.when_room(lambda: self._offer_again(ticket))

    def _offer_again(self, ticket: Ticket) -> None:
        connection = ticket.path.connection
        if ticket.waits and connection.tickets[0] is ticket and not connection.offers:
            self._offer(ticket)
            self._select()

    def _take_offer_back(self, ticket: Ticket) -> None:
        client, connection = ticket.path.client, ticket.path.connection
        if connection.offers:
            connection.take_back(ticket.engine)
            if not client.running:
                self._update_light(client)

    def _tidy(self, ticket: Ticket) -> None:
        if not ticket.path.connection.connected:
            self._tree.tidy(ticket.path)

    # --- selection ----------------------------------------------------------------------------------------------------

    def _select(self) -> None:
        """Give free slots to runs until none is free or no run may start.

        `granted` may return its slot at once, or request another. That calls this method again. The nested call leaves
        the work to the loop in progress.
        """
        if self._selecting:
            return
        self._selecting = True
        try:
            self._free_slots_of_long_runs()
            looks = 0
            while self._waiting and self.free and (ticket := self._choose()) is not None:
                looks += 1
                if looks > _GRANTED_AT_ONCE:
                    self._select_soon()
                    break
                if ticket.room.has_room():
                    self._withdraw(ticket)
                    self._begin(ticket)
                else:
                    self._take_offer_back(ticket)
                    self._offer(ticket)
        finally:
            self._selecting = False

    def _choose(self) -> Ticket | None:
        """Return the next run; None if no run may start now."""
        root = self._tree.root
        if self.free > self._reserved:
            chosen = root.least_ticket([engine for engine in root.offers if self._is_open(engine)])
            if chosen is not None:
                return chosen
        if not self._reserved or not self._light:
            return None
        # Include held users: the root does not count their offers.
        waited_for = [engine for engine, tickets in self._pending.items() if tickets]
        return self._choose_light([engine for engine in waited_for if self._is_ready(engine)])

    def _choose_light(self, engines: list[Engine]) -> Ticket | None:
        """Return the next run of a light client."""
        self._tree.root.rank()
        several_users = len(self._tree.root.by_runs) > 1
        found: tuple[tuple[float, int, float, int], Ticket] | None = None
        looked_at = list(islice(self._light, _LIGHT_LOOKS))
        for client in looked_at:
            user = client.parent
            assert user is not None
            if client.is_capped or user.is_capped:
                continue
            if client.ahead_ms > LIGHT_MS or (several_users and not _is_light(user)):
                continue
            ticket = client.least_ticket(engines)
            if ticket is not None and ticket.ordinary:
                order = (user.service_ms, user.number, client.service_ms, client.number)
                if found is None or order < found[0]:
                    found = order, ticket
        if found is None and len(self._light) > _LIGHT_LOOKS:
            for client in looked_at:  # the others are examined next time
                self._light[client] = self._light.pop(client)
        return None if found is None else found[1]

    def _is_ready(self, engine: Engine) -> bool:
        return engine == SPECIAL or self._cells[engine].can_lend()

    def _is_open(self, engine: Engine) -> bool:
        """Whether clients that are not light may use a cell of an engine."""
        if engine == SPECIAL:
            return True
        cells = self._cells[engine]
        return cells.can_lend() and not (self._reserved and cells.is_last())

    def _update_light(self, client: Node) -> None:
        """Keep the list of light clients up to date."""
        if not client.running and client.offers and _uses_little(client):
            self._light[client] = None
        elif client in self._light:
            del self._light[client]

    # --- slots --------------------------------------------------------------------------------------------------------

    def _begin(self, ticket: Ticket) -> None:
        self.free -= 1
        self.running += 1
        ticket.since = self._now()
        self._begun[ticket] = None
        ticket.estimates = ticket.path.begin()
        self._light.pop(ticket.path.client, None)
        self._update_held(ticket.path)
        ticket.granted(ticket)

    def _take_back(self, ticket: Ticket) -> None:
        client = ticket.path.client
        if ticket in self._begun:
            del self._begun[ticket]
            self.free += 1
        else:
            self._count_long(ticket, -1)
        self.running -= 1
        for node in ticket.path.nodes:
            node.running -= 1
        if not client.running:
            self._update_light(client)
        self._update_held(ticket.path)
        self._tidy(ticket)
        if self._waiting:
            self._select()

    # --- long runs ----------------------------------------------------------------------------------------------------

    def _free_slots_of_long_runs(self) -> None:
        """While only the reserved slot is free, free slots that runs have had for LONG_S, oldest first."""
        if self.free > self._reserved or self._long >= self._most_long or not self._begun:
            return
        since = self._now() - LONG_S
        if next(iter(self._begun)).since > since:
            return  # every run comes here: the list below would be copied for each
        for ticket in list(self._begun):
            if self.free > self._reserved or self._long >= self._most_long or ticket.since > since:
                break
            user, client = ticket.path.user, ticket.path.client
            if user.long < self._most_long_of_user and client.long < self._most_long_of_client:
                del self._begun[ticket]
                self.free += 1
                self._count_long(ticket, 1)
                self._update_held(ticket.path)

    def _count_long(self, ticket: Ticket, change: int) -> None:
        self._long += change
        ticket.path.client.long += change
        ticket.path.user.long += change

    def _update_held(self, path: Path) -> None:
        """Hold a client or a user at its quota, or while it has its maximum of long runs and a run with a slot."""
        user, client = path.user, path.client
        if not (self._long or self._has_caps or client.held or user.held):
            return  # every run comes here, and most daemons have no quotas and no long runs
        client.hold(held=client.is_capped or _is_full(client, self._most_long_of_client))
        user.hold(held=user.is_capped or _is_full(user, self._most_long_of_user))


def _whose(path: Path, node: Node) -> tuple[int, str | None]:
    """Return the user, and the tenant if the node is one."""
    tenant = node.key[1] if isinstance(node.key, tuple) and node.key[0] == "tenant" else None
    return cast(int, path.user.key), tenant


def _is_full(node: Node, most_long: int) -> bool:
    return node.long > 0 and node.long >= most_long and node.running > node.long


def _uses_little(node: Node) -> bool:
    return node.mean_ms is not None and node.mean_ms <= LIGHT_MS


def _is_light(node: Node) -> bool:
    return not node.running and _uses_little(node) and node.ahead_ms <= LIGHT_MS
