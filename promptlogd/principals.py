"""The tree of principals (users, tenants, processes, connections), and the CPU time that each has used.

`admission` decides which run gets a slot. Its docstring explains services and clocks.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Sequence

import msgspec
import trio

from promptlogd.principal import Principal
from promptlogd.ranking import Ranking
from promptlogd.refusal import RequestError
from promptlogd.room import Room
from sandbox.program import Engine

_NEWEST_WEIGHT = 1 / 8
"""Weight of the newest charge in a mean (an exponentially weighted moving average)."""

_MOST_CHILDREN = 4096
"""Children that one parent remembers. The least recently used idle child is forgotten first. If it returns, it is
new."""

_MOST_NAMED = 512
"""Tenants that count as connected, over all connections. The least recently used one is dropped first. Its service is
then remembered like that of a disconnected client. With this many tenants, closing a connection takes 1.5 ms."""

_LOOKS = 64
"""Nodes that are examined to find one that can be forgotten. Any number of nodes may be connected."""


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
        "running",
        "service_ms",
        "tickets",
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
        """Whether none of its runs may start now. If so, its parent does not count its offers."""
        self.waiting = 0
        """Number of waiting runs below this node."""
        self.waiting_bytes = 0
        """Memory that the waiting runs hold."""
        self.connected = 0
        """Number of open connections below this node."""
        self.tickets: deque[Ticket] = deque()
        """For a connection: its waiting runs, oldest first."""
        self.offers: dict[Engine, int] = {}
        """For each engine: number of connections below this node whose next run needs that engine and can start."""
        self.by_service: dict[Engine, Ranking[Node]] = {}
        """For each engine: the children that offer a run, by service. Ties: oldest first."""
        self.by_runs: Ranking[Node] = Ranking()
        """The children with waiting runs, by number of runs. Ties: most recently used last."""
        self.by_bytes: Ranking[Node] = Ranking()
        """The children with waiting runs, by the memory that these hold."""
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
            node = (node.by_bytes if by_bytes else node.by_runs).most
        return node.tickets[-1]

    def _least(self, engines: Sequence[Engine]) -> Node | None:
        """Return the child with the least service that offers a run on one of these engines. Ties: the oldest."""
        found: tuple[float, int, Node] | None = None
        for engine in engines:
            if self.offers.get(engine):
                least = self.by_service[engine].least
                if found is None or least[:2] < found[:2]:
                    found = least
        return None if found is None else found[2]

    def offer(self, engine: Engine, change: int) -> None:
        """Add `change` to the number of offered runs of this node and of all its ancestors."""
        before = self.offers.get(engine, 0)
        self.offers[engine] = before + change
        if not self.held:
            self._show(engine, before, change)

    def hold(self, *, held: bool) -> None:
        """Exclude its runs from selection, or include them again."""
        if held != self.held:
            self.held = held
            for engine, offers in self.offers.items():
                if offers and held:
                    self._show(engine, offers, -offers)
                elif offers:
                    self._show(engine, 0, offers)

    def _show(self, engine: Engine, before: int, change: int) -> None:
        """Update the parent: the number of runs offered here changes from `before` by `change`."""
        parent = self.parent
        if parent is None:
            return
        if not before:
            parent.by_service.setdefault(engine, Ranking()).add(self.service_ms, self.number, self)
        elif not before + change:
            parent.by_service[engine].remove(self.service_ms, self.number)
        parent.offer(engine, change)

    def wait(self, runs: int, held_bytes: int) -> None:
        """Add to the number of waiting runs, and to the memory that they hold."""
        parent = self.parent
        assert parent is not None
        before, before_bytes = self.waiting, self.waiting_bytes
        self.waiting += runs
        self.waiting_bytes += held_bytes
        parent.by_runs.put(before, self.waiting, self.used, self)
        if held_bytes:
            parent.by_bytes.put(before_bytes, self.waiting_bytes, self.used, self)

    def catch_up(self) -> None:
        """Move the service up to the parent's clock after a time without runs."""
        parent = self.parent
        assert parent is not None
        self.service_ms = max(self.service_ms, parent.clock_ms)
        parent.children.move_to_end(self.key)
        parent.uses += 1
        self.used = parent.uses

    def begin(self, estimate_ms: float) -> None:
        """Note that a run below this node starts, and charge an estimate."""
        assert self.parent is not None
        self.running += 1
        self.parent.clock_ms = max(self.parent.clock_ms, self.service_ms)
        self.serve(estimate_ms)

    def serve(self, ms: float) -> None:
        """Add CPU time to the service, and update the order of the parent's children."""
        before_ms = self.service_ms
        self.service_ms += ms
        assert self.parent is not None
        for engine, offers in self.offers.items():
            if offers and not self.held:
                self.parent.by_service[engine].move(before_ms, self.service_ms, self.number, self)

    def learn(self, charge_ms: float) -> None:
        """Update the mean with the charge of a run below this node."""
        self.mean_ms = charge_ms if self.mean_ms is None else self.mean_ms + _NEWEST_WEIGHT * (charge_ms - self.mean_ms)

    @property
    def estimate_ms(self) -> float:
        """Charge of the next run at its start."""
        if self.mean_ms is not None or self.parent is None:
            return self.mean_ms or 0.0
        return self.parent.mean_ms or 0.0

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

    @classmethod
    def of(cls, nodes: tuple[Node, ...]) -> Path:
        """Return the path of these nodes, from the connection up to the user."""
        return cls(nodes, nodes[0], nodes[-2], nodes[-1])


Granted = Callable[["Ticket | RequestError"], None]
"""Receives the ticket of a run that may start, or the reason why the run gets no slot."""


class Ticket:
    """A run's place in the queue, and later its slot."""

    __slots__ = ("engine", "estimates", "granted", "held_bytes", "ordinary", "path", "room", "since", "waits")

    def __init__(
        self, path: Path, engine: Engine, granted: Granted, *, held_bytes: int, ordinary: bool, room: Room
    ) -> None:
        self.path = path
        self.engine = engine
        self.granted = granted
        self.held_bytes = held_bytes
        """Memory that the run holds while it waits."""
        self.ordinary = ordinary
        """Whether the limits of the run do not exceed the defaults."""
        self.room = room
        self.since = trio.current_time()
        """Time at which it started to wait; later, time at which it got its slot."""
        self.waits = False
        self.estimates: tuple[float, ...] = ()
        """Estimate that each node of the path was charged at the start."""


class Tree:
    """Nodes of all connected principals, and of disconnected ones whose service is still ahead."""

    def __init__(self) -> None:
        self.root = Node(None, None, 0)
        self._paths: dict[int, dict[str | None, Path]] = {}
        """By connection, then by the tenant that it names."""
        self._named: OrderedDict[tuple[int, str], Path] = OrderedDict()
        """By connection and tenant, the least recently used first."""
        self._numbers = 0

    def path(self, principal: Principal) -> Path:
        """Return the nodes of a principal. Missing nodes are created."""
        known = self._paths.setdefault(principal.connection, {})
        path = known.get(principal.tenant)
        if path is None:
            keys: list[Hashable] = [principal.uid, ("process", principal.process), principal.connection]
            if principal.tenant is not None:
                keys.insert(1, ("tenant", principal.tenant))
            nodes = [self.root]
            for key in keys:
                nodes.append(nodes[-1].children.get(key) or self._add(nodes[-1], key))
                nodes[-1].connected += 1
            path = known[principal.tenant] = Path.of(tuple(nodes[:0:-1]))
        if principal.tenant is not None:
            named = principal.connection, principal.tenant
            self._named[named] = path
            self._named.move_to_end(named)
            if len(self._named) > _MOST_NAMED:
                self._forget_tenant(named)
        return path

    def _forget_tenant(self, newest: tuple[int, str]) -> None:
        """Drop one connection's tenant: the least recently used one without running or waiting runs."""
        for _ in range(_LOOKS):
            named, path = next(iter(self._named.items()))
            if named == newest:
                return
            if path.connection.idle:
                connection, tenant = named
                del self._paths[connection][tenant]
                self._leave(self._named.pop(named))
                return
            self._named.move_to_end(named)
        self._named.move_to_end(newest)

    def forget(self, connection: int) -> None:
        """Note that a connection was closed. Its user, tenant and process are remembered as long as necessary."""
        for tenant, path in self._paths.pop(connection, {}).items():
            if tenant is not None:
                del self._named[connection, tenant]
            self._leave(path)

    def _leave(self, path: Path) -> None:
        for node in path.nodes:
            node.connected -= 1
        self.tidy(path)

    def __len__(self) -> int:
        """Number of users, tenants, processes and connections that are remembered."""
        return self.root.below

    def tidy(self, path: Path) -> None:
        """Forget nodes without connections, once a new node would start with the same service."""
        for node in path.nodes:
            assert node.parent is not None
            if node.connected or not node.idle:
                return
            # A connection never returns. Its charges are part of the service of its process.
            if node is path.connection or node.ahead_ms <= 0:
                self._remove(node)

    def _add(self, parent: Node, key: Hashable) -> Node:
        self._numbers += 1
        node = parent.children[key] = Node(key, parent, self._numbers)
        _count(parent, 1)
        if len(parent.children) > _MOST_CHILDREN:
            for _ in range(_LOOKS):
                oldest = next(iter(parent.children.values()))
                if oldest is node:
                    break
                if not oldest.connected and oldest.idle:
                    self._remove(oldest)
                    break
                parent.children.move_to_end(oldest.key)
            parent.children.move_to_end(key)
        return node

    def _remove(self, node: Node) -> None:
        """Forget a node and its descendants, unless it is already forgotten."""
        parent = node.parent
        assert parent is not None
        if parent.children.get(node.key) is node:
            del parent.children[node.key]
            _count(parent, -1 - node.below)


def _count(node: Node, nodes: int) -> None:
    """Add to the number of descendants of a node and of all its ancestors."""
    above: Node | None = node
    while above is not None:
        above.below += nodes
        above = above.parent
