"""The tree of principals, and the CPU time that each of them has used: users, tenants, processes, connections.

`admission` decides which run gets a slot, and explains services and clocks.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Sequence

import msgspec
import trio

from promptlogd.principal import Principal
from promptlogd.refusal import RequestError
from promptlogd.room import Room
from sandbox.program import Engine

_NEWEST_WEIGHT = 1 / 8
"""Weight of the newest charge in a mean (an exponentially weighted moving average)."""

_MOST_CHILDREN = 4096
"""Children that one parent remembers. The least recently used idle one is forgotten first, and is new if it returns."""

_MOST_NAMED = 1024
"""Tenants that connections have at hand, for all connections. The least recently used one is dropped first; its service
is remembered like that of a client that has left. With more, the end of a connection takes 3 ms."""

_LOOKS = 64
"""Nodes that are looked at to find one that can be forgotten: any number of them may be connected."""

_STALE_ENTRIES = 64
"""Entries of a heap beyond twice the number of children. Above that it is rebuilt: most are out of date."""


class Node:
    """A user, a tenant, a process or a connection; or the root, which has the users."""

    __slots__ = (
        "children",
        "clock_ms",
        "connected",
        "heaps",
        "key",
        "mean_ms",
        "number",
        "offers",
        "parent",
        "running",
        "service_ms",
        "tickets",
        "waiting",
        "waiting_bytes",
    )

    def __init__(self, key: Hashable, parent: Node | None, number: int) -> None:
        self.key = key
        self.parent = parent
        self.number = number
        """Older nodes have smaller numbers."""
        self.children: OrderedDict[Hashable, Node] = OrderedDict()
        """In the order in which they were used last."""
        self.clock_ms = 0.0
        self.mean_ms: float | None = None
        """Mean charge of the runs below it; None before the first has ended."""
        self.service_ms = 0.0 if parent is None else parent.clock_ms + (parent.mean_ms or 0.0)
        self.running = 0
        self.waiting = 0
        """Runs below it that wait."""
        self.waiting_bytes = 0
        """Memory that these runs hold."""
        self.connected = 0
        """Connections below it that are open."""
        self.tickets: deque[Ticket] = deque()
        """Of a connection: its runs that wait, the oldest first."""
        self.offers: dict[Engine, int] = {}
        """For each engine, the number of connections below whose next run needs that engine and can begin."""
        self.heaps: dict[Engine, list[tuple[float, int, Node]]] = {}
        """For each engine, the children that offer a run: (service, number, child). Entries may be out of date."""

    def least_ticket(self, engines: Sequence[Engine]) -> Ticket | None:
        """Return the next run below it on one of these engines: least service first, then oldest node."""
        node: Node | None = self
        while node is not None and not node.tickets:
            node = node._least(engines)
        return None if node is None else node.tickets[0]

    def _least(self, engines: Sequence[Engine]) -> Node | None:
        """Return the child with the least service that offers a run on one of these engines; of equals, the oldest."""
        found: tuple[float, int, Node] | None = None
        for engine in engines:
            if self.offers.get(engine):
                heap = self.heaps[engine]
                while not heap[0][2].is_current(heap[0][0], engine):
                    heapq.heappop(heap)
                if found is None or heap[0][:2] < found[:2]:
                    found = heap[0]
        return None if found is None else found[2]

    def is_current(self, service_ms: float, engine: Engine) -> bool:
        """Whether an entry of its parent's heap is up to date."""
        return self.service_ms == service_ms and self.offers.get(engine, 0) > 0

    def offer(self, engine: Engine, change: int) -> None:
        """Add `change` to the number of runs that are offered below this node, here and in all nodes above."""
        node, parent = self, self.parent
        while True:
            before = node.offers.get(engine, 0)
            node.offers[engine] = before + change
            if parent is None:
                return
            if not before:
                parent.push(node, engine)
            node, parent = parent, parent.parent

    def push(self, child: Node, engine: Engine) -> None:
        """Add an entry with the present service of a child that offers a run."""
        heap = self.heaps.setdefault(engine, [])
        if len(heap) >= _STALE_ENTRIES + 2 * len(self.children):
            offering = (child for child in self.children.values() if child.offers.get(engine))
            heap[:] = [(child.service_ms, child.number, child) for child in offering]
            heapq.heapify(heap)
        heapq.heappush(heap, (child.service_ms, child.number, child))

    def catch_up(self) -> None:
        """Continue at the parent's clock after a time without runs."""
        parent = self.parent
        assert parent is not None
        self.service_ms = max(self.service_ms, parent.clock_ms)
        parent.children.move_to_end(self.key)

    def begin(self, estimate_ms: float) -> None:
        """Note that a run below it begins, and charge it with an estimate."""
        assert self.parent is not None
        self.running += 1
        self.parent.clock_ms = max(self.parent.clock_ms, self.service_ms)
        self.serve(estimate_ms)

    def serve(self, ms: float) -> None:
        """Add CPU time to its service, and to its entries in the parent's heaps."""
        self.service_ms += ms
        assert self.parent is not None
        for engine, offers in self.offers.items():
            if offers:
                self.parent.push(self, engine)

    def learn(self, charge_ms: float) -> None:
        """Update the mean with the charge of a run below it."""
        self.mean_ms = charge_ms if self.mean_ms is None else self.mean_ms + _NEWEST_WEIGHT * (charge_ms - self.mean_ms)

    @property
    def estimate_ms(self) -> float:
        """What its next run is charged with at its start."""
        if self.mean_ms is not None or self.parent is None:
            return self.mean_ms or 0.0
        return self.parent.mean_ms or 0.0

    @property
    def ahead_ms(self) -> float:
        """How far its service is ahead of its parent's clock."""
        return self.service_ms - (self.parent.clock_ms if self.parent is not None else 0.0)

    @property
    def idle(self) -> bool:
        """Whether no run below it runs or waits."""
        return not self.running and not self.waiting


class Path(msgspec.Struct, frozen=True, eq=False):
    """The nodes of one principal."""

    nodes: tuple[Node, ...]
    """From the connection up to the user. The root is not among them."""

    @property
    def connection(self) -> Node:
        """The connection."""
        return self.nodes[0]

    @property
    def client(self) -> Node:
        """The tenant, or else the process."""
        return self.nodes[-2]

    @property
    def user(self) -> Node:
        """The user."""
        return self.nodes[-1]


Granted = Callable[["Ticket | RequestError"], None]
"""Takes the ticket of a run that may begin, or the reason why the run gets no slot."""


class Ticket:
    """One run's place in the queue, and then its slot."""

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
        """Whether the run has the default limits, or less."""
        self.room = room
        self.since = trio.current_time()
        self.waits = False
        self.estimates: tuple[float, ...] = ()
        """What each node of the path was charged with at the start."""


class Tree:
    """Nodes of all connected principals, and of those that used more than others and may return."""

    def __init__(self) -> None:
        self.root = Node(None, None, 0)
        self._paths: dict[int, dict[str | None, Path]] = {}
        """By connection, then by the tenant that it names."""
        self._named: OrderedDict[tuple[int, str], Path] = OrderedDict()
        """By connection and tenant, the least recently used first."""
        self._numbers = 0

    def path(self, principal: Principal) -> Path:
        """Return the nodes of a principal. They are made if it is new."""
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
            path = known[principal.tenant] = Path(tuple(nodes[:0:-1]))
        if principal.tenant is not None:
            named = principal.connection, principal.tenant
            self._named[named] = path
            self._named.move_to_end(named)
            if len(self._named) > _MOST_NAMED:
                self._forget_tenant(named)
        return path

    def _forget_tenant(self, newest: tuple[int, str]) -> None:
        """Forget that a connection has named a tenant: the first for which nothing runs or waits."""
        named = next((named for named, path in self._named.items() if path.connection.idle), newest)
        if named != newest:
            connection, tenant = named
            del self._paths[connection][tenant]
            self._leave(self._named.pop(named))

    def forget(self, connection: int) -> None:
        """Take note that a connection was closed. Its user, tenant and process are remembered while it matters."""
        for tenant, path in self._paths.pop(connection, {}).items():
            if tenant is not None:
                del self._named[connection, tenant]
            self._leave(path)

    def _leave(self, path: Path) -> None:
        for node in path.nodes:
            node.connected -= 1
        self.tidy(path)

    def __len__(self) -> int:
        """How many users, tenants, processes and connections are remembered."""
        nodes = [self.root]
        for node in nodes:
            nodes += node.children.values()
        return len(nodes) - 1

    def tidy(self, path: Path) -> None:
        """Forget nodes without connections, once a new node in their place would have the same service."""
        for node in path.nodes:
            assert node.parent is not None
            if node.connected or not node.idle:
                return
            # A connection never returns. What it used is in the service of its process.
            if node is path.connection or node.ahead_ms <= 0:
                node.parent.children.pop(node.key, None)

    def _add(self, parent: Node, key: Hashable) -> Node:
        self._numbers += 1
        node = parent.children[key] = Node(key, parent, self._numbers)
        if len(parent.children) > _MOST_CHILDREN:
            for _ in range(_LOOKS):
                oldest = next(iter(parent.children.values()))
                if oldest is node:
                    break
                if not oldest.connected and oldest.idle:
                    del parent.children[oldest.key]
                    break
                parent.children.move_to_end(oldest.key)
            parent.children.move_to_end(key)
        return node
