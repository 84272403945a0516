"""The tree of principals: the nodes of those that are connected or remembered.

A disconnected principal is remembered until a new one would start with the same service.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

from promptlogd.principal import Principal
from promptlogd.principals import Node, Path

_MOST_CHILDREN = 4096
"""Children that one parent remembers. The least recently used idle child is forgotten first. If it returns, it is
new."""

_MOST_NAMED = 512
"""Tenants that count as connected, over all connections. The least recently used one is dropped first. Its service is
then remembered like that of a disconnected client. With this many tenants, closing a connection takes 1.5 ms."""

_LOOKS = 64
"""Nodes that are examined to find one that can be forgotten. Any number of nodes may be connected."""


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
            upwards = tuple(nodes[:0:-1])
            path = known[principal.tenant] = Path(upwards, upwards[0], upwards[-2], upwards[-1])
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
            parent.forget(node)
            _count(parent, -1 - node.below)


def _count(node: Node, nodes: int) -> None:
    """Add to the number of descendants of a node and of all its ancestors."""
    above: Node | None = node
    while above is not None:
        above.below += nodes
        above = above.parent
