"""How to start a cell: executable, arguments, limits and identity."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from sandbox.errors import CellStartError
from sandbox.jail.arguments import identity_arguments
from sandbox.jail.cell_cgroup import JailGroup
from sandbox.jail.cgroup import Cgroup
from sandbox.jail.identities import Identities, Identity
from sandbox.limits import Limits
from sandbox.program import Engine


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How to start a cell. `default`: limits of its blank processes."""

    engine: Engine
    executable: Path
    arguments: list[str]
    """Arguments, without those for the identity: see `arguments_for`."""
    identities: Identities
    folder: Path
    """Working folder of nsjail."""
    default: Limits
    cgroup: Cgroup | None = None
    data_bytes: int | None = None
    """RLIMIT_DATA of the engine's process, if it limits the memory."""

    def take_identity(self) -> Identity:
        """Return the identity of the next jail. Raises CellStartError if none is free."""
        identity = self.identities.take()
        if identity is None:
            raise CellStartError(self.engine, "no uid is free for its jail; raise the number of ids in pool.uids")
        return identity

    @property
    def process_options(self) -> dict[str, Any]:
        """Options of subprocess.Popen that depend on the daemon's rights.

        nsjail drops supplementary groups only if it is root. A jail with its own uid must not keep the daemon's groups.
        """
        return {} if self.identities.shared or os.geteuid() == 0 else {"extra_groups": []}

    def arguments_for(self, identity: Identity, group: JailGroup | None = None) -> list[str]:
        """Return the arguments for a jail with this identity, in this cgroup."""
        return [*identity_arguments(identity), *([] if group is None else group.arguments), *self.arguments]
