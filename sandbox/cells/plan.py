"""How a cell is started: what to spawn, with which arguments and limits, and as whom."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from sandbox.errors import CellStartError
from sandbox.jail.arguments import identity_arguments
from sandbox.jail.cgroup import Cgroup
from sandbox.jail.identities import Identities, Identity
from sandbox.limits import Limits
from sandbox.program import Engine


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How to start a cell. `default`: the limits that its blank processes have."""

    engine: Engine
    executable: Path
    arguments: list[str]
    """All but those that say who the jail is outside: see `arguments_for`."""
    identities: Identities
    folder: Path
    """Working folder of nsjail."""
    default: Limits
    cgroup: Cgroup | None = None
    data_bytes: int | None = None
    """RLIMIT_DATA of the engine's process, if that is what limits its memory."""

    def take_identity(self) -> Identity:
        """Return who the next jail is to be. Raises CellStartError if no identity is free."""
        identity = self.identities.take()
        if identity is None:
            raise CellStartError(self.engine, "no uid is free for its jail; raise the number of ids in pool.uids")
        return identity

    @property
    def process_options(self) -> dict[str, Any]:
        """Options of subprocess.Popen that depend on who the daemon is.

        nsjail drops supplementary groups for root alone. A jail with a uid of its own must not keep the daemon's.
        """
        return {} if self.identities.shared or os.geteuid() == 0 else {"extra_groups": []}

    def arguments_for(self, identity: Identity) -> list[str]:
        """Return the arguments for a jail with this identity."""
        return [*identity_arguments(identity), *self.arguments]
