"""Users, tenants, processes and connections, the CPU time that each has used, and their waiting runs.

`admission` decides which run gets a slot. Its docstring explains services and clocks.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Sequence

import msgspec

from promptlogd.ranking import Ranking
from promptlogd.refusal import RequestError
from promptlogd.room import Room
from sandbox.program import Engine

_NEWEST_WEIGHT = 1 / 8
"""Weight of the newest charge in a mean (an exponentially weighted moving average)."""

_MOST_UNRANKED = 256
"""Children that are not ranked yet. Ranking them takes 0.1 ms."""


class Node:
    """A user, a tenant, a process or a connection; or the root, the parent of the users."""

    __slots__ = (
        "below",
        "by_bytes",
        "by_runs",
        "by_service",
        "children",
        "clock_ms",
        "connected",
        "held",
        "key",
        "long",
        "mean_ms",
        "most_running",
        "most_waiting",
        "number",
        "offers",
        "parent",
        "ranked_bytes",
        "ranked_runs",
        "ranked_used",
        "running",
        "service_ms",
        "tickets",
        "unranked",
        "used",
        "uses",
        "waiting",
        "waiting_bytes",
    )

    def __init__(self, key: Hashable, parent: Node | None, number: int) -> None:
        self.key = key
        self.parent = parent
        self.number = number
        """Older nodes have smaller numbers."""
        self.children: OrderedDict[Hashable, Node] = OrderedDict()
        """Least recently used first."""
        self.below = 0
        """Number of descendants."""
        self.clock_ms = 0.0
        self.mean_ms: float | None = None
        """Mean charge of the runs below this node. None before the first has ended."""
        self.service_ms = 0.0 if parent is None else parent.clock_ms + (parent.mean_ms or 0.0)
        self.running = 0
        self.long = 0
        """For a client or a user: number of long runs, which have returned their slot."""
        self.most_running: int | None = None
        """For a tenant or a user with a quota: number of its runs that may be in progress."""
        self.most_waiting: int | None = None
        """The same: number of its runs that may wait."""
        self.held = False
        """Whether none of its runs may start now. If so, its parent does not rank it."""
        self.waiting = 0
        """Number of waiting runs below this node."""
        self.waiting_bytes = 0
        """Memory that the waiting runs hold."""
        self.connected = 0
        """Number of open connections below this node."""
        self.tickets: deque[Ticket] = deque()
        """For a connection: its waiting runs, oldest first."""
        self.offers: set[Engine] = set()
        """Engines that the next run of a connection below this node needs, if that run can start."""
        self.by_service: dict[Engine, Ranking[Node]] = {}
        """For each engine: the children that offer a run, by service. Ties: oldest first."""
        self.by_runs: Ranking[Node] = Ranking()
        """The children with waiting runs, by number of runs, as of the last `rank`. Ties: most recently used last."""
        self.by_bytes: Ranking[Node] = Ranking()
        """The children with waiting runs, by the memory that these hold."""
        self.unranked: dict[Node, None] = {}
        """Children whose waiting runs have changed since the last `rank`. Every run that waits changes them, but only
        a full queue and the reserved slot need the rankings."""
        self.ranked_runs = self.ranked_bytes = self.ranked_used = 0
        """The numbers under which its parent has last ranked it. 0: it is not in that ranking."""
        self.uses = 0
        """Number of times that a run arrived at an idle child."""
        self.used = 0
        """The parent's `uses` when a run last arrived here while idle. A larger number means more recent use."""

    def least_ticket(self, engines: Sequence[Engine]) -> Ticket | None:
        """Return the next run below this node on one of these engines: least service first, then oldest node."""
        node: Node | None = self
        while node is not None and not node.tickets:
            node = node._least(engines)
        return None if node is None else node.tickets[0]

    def longest_ticket(self, *, by_bytes: bool = False) -> Ticket:
        """Return the newest waiting run of the child with the most waiting runs, level by level.

        `by_bytes`: with the most memory in waiting runs. At least one run must wait below this node.
        """
        node = self
        while not node.tickets:
            node.rank()
            node = (node.by_bytes if by_bytes else node.by_runs).most
        return node.tickets[-1]

    def _least(self, engines: Sequence[Engine]) -> Node | None:
        """Return the child with the least service that offers a run on one of these engines. Ties: the oldest."""
        found: tuple[float, int, Node] | None = None
        for engine in engines:
            if engine in self.offers:
                least = self.by_service[engine].least
                if found is None or least[:2] < found[:2]:
                    found = least
        return None if found is None else found[2]

    def offer(self, engine: Engine) -> None:
        """Offer a run to the parent. Does nothing if this node already offers one for the same engine."""
        if engine not in self.offers:
            self.offers.add(engine)
            if self.parent is not None and not self.held:
                self._show(self.parent, engine)

    def take_back(self, engine: Engine) -> None:
        """Withdraw the offer for this engine, which this node must have made."""
        self.offers.remove(engine)
        if self.parent is not None and not self.held:
            self._hide(self.parent, engine)

    def hold(self, *, held: bool) -> None:
        """Exclude its runs from selection, or include them again."""
        if held != self.held:
            self.held = held
            assert self.parent is not None
            change = self._hide if held else self._show
            for engine in self.offers:
                change(self.parent, engine)

    def _show(self, parent: Node, engine: Engine) -> None:
        """Have the parent rank this node, and offer its run."""
        ranking = parent.by_service.get(engine)
        if ranking is None:
            ranking = parent.by_service[engine] = Ranking()
        ranking.add(self.service_ms, self.number, self)
        if engine not in parent.offers:
            parent.offer(engine)

    def _hide(self, parent: Node, engine: Engine) -> None:
        ranking = parent.by_service[engine]
        ranking.remove(self.service_ms, self.number)
        if not ranking:
            parent.take_back(engine)

    def rank(self) -> None:
        """Bring `by_runs` and `by_bytes` up to date."""
        while self.unranked:
            self._rank(self.unranked.popitem()[0])

    def _rank(self, child: Node) -> None:
        if child.ranked_runs:
            self.by_runs.remove(child.ranked_runs, child.ranked_used)
        if child.ranked_bytes:
            self.by_bytes.remove(child.ranked_bytes, child.ranked_used)
        child.ranked_runs, child.ranked_bytes, child.ranked_used = child.waiting, child.waiting_bytes, child.used
        if child.waiting:
            self.by_runs.add(child.waiting, child.used, child)
        if child.waiting_bytes:
            self.by_bytes.add(child.waiting_bytes, child.used, child)

    def forget(self, child: Node) -> None:
        """Forget an idle child."""
        del self.children[child.key]
        if child in self.unranked:
            del self.unranked[child]
            self._rank(child)  # no run waits below it, so this removes it from the rankings

    def catch_up(self) -> None:
        """Move the service up to the parent's clock after a time without runs."""
        parent = self.parent
        assert parent is not None
        self.service_ms = max(self.service_ms, parent.clock_ms)
        parent.children.move_to_end(self.key)
        parent.uses += 1
        self.used = parent.uses

    def serve(self, ms: float) -> None:
        """Add CPU time to the service, and update the order of the parent's children."""
        before_ms = self.service_ms
        self.service_ms = after_ms = before_ms + ms
        if self.offers and not self.held:
            assert self.parent is not None
            for engine in self.offers:
                self.parent.by_service[engine].move(before_ms, after_ms, self.number, self)

    @property
    def ahead_ms(self) -> float:
        """Difference between its service and its parent's clock."""
        return self.service_ms - (self.parent.clock_ms if self.parent is not None else 0.0)

    @property
    def is_capped(self) -> bool:
        """Whether as many runs are in progress as its quota allows."""
        return self.most_running is not None and self.running >= self.most_running

    @property
    def idle(self) -> bool:
        """Whether no run below this node runs or waits."""
        return not self.running and not self.waiting


class Path(msgspec.Struct, frozen=True, eq=False):
    """The nodes of one principal."""

    nodes: tuple[Node, ...]
    """From the connection up to the user, without the root."""
    connection: Node
    client: Node
    """The tenant, or the process without a tenant."""
    user: Node

    def wait(self, runs: int, held_bytes: int) -> None:
        """Add to the number of waiting runs, and to the memory that they hold."""
        for node in self.nodes:
            node.waiting += runs
            node.waiting_bytes += held_bytes
            parent = node.parent
            assert parent is not None
            parent.unranked[node] = None
            if len(parent.unranked) >= _MOST_UNRANKED:
                parent.rank()

    def begin(self) -> tuple[float, ...]:
        """Note that a run starts, and charge each node an estimate. Return the estimates."""
        estimates = []
        for node in self.nodes:
            parent = node.parent
            assert parent is not None
            mean_ms = node.mean_ms
            estimate_ms = mean_ms if mean_ms is not None else parent.mean_ms or 0.0
            estimates.append(estimate_ms)
            node.running += 1
            if node.service_ms > parent.clock_ms:
                parent.clock_ms = node.service_ms
            node.serve(estimate_ms)
        return tuple(estimates)

    def learn(self, charge_ms: float) -> None:
        """Update the mean of each node and of the root with the charge of a run."""
        root = self.user.parent
        assert root is not None
        for node in (*self.nodes, root):
            mean_ms = node.mean_ms
            node.mean_ms = charge_ms if mean_ms is None else mean_ms + _NEWEST_WEIGHT * (charge_ms - mean_ms)

    def charge(self, charge_ms: float, estimates: tuple[float, ...]) -> None:
        """Replace the estimates of a run by its charge."""
        for node, estimate_ms in zip(self.nodes, estimates, strict=True):
            node.serve(charge_ms - estimate_ms)


Granted = Callable[["Ticket | RequestError"], None]
"""Receives the ticket of a run that may start, or the reason why the run gets no slot."""


class Ticket(msgspec.Struct, eq=False):
    """A run's place in the queue, and later its slot."""

    path: Path
    engine: Engine
    granted: Granted
    held_bytes: int
    """Memory that the run holds while it waits."""
    ordinary: bool
    """Whether the limits of the run do not exceed the defaults."""
    room: Room
    since: float = math.inf
    """Time at which it started to wait; later, time at which it got its slot."""
    waits: bool = False
    estimates: tuple[float, ...] = ()
    """Estimate that each node of the path was charged at the start."""
