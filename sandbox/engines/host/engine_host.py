"""The daemon's side of an engine: what every engine has to offer, and what it gets to work with."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import msgspec

from sandbox.cells.cell import Cell
from sandbox.cells.plan import Plan
from sandbox.cells.reactor import Reactor
from sandbox.engines.spec import EngineSpec
from sandbox.jail.cgroup import Cgroup
from sandbox.jail.identities import Identities
from sandbox.limits import Limits
from sandbox.program import Artifact, Language
from sandbox.protocol.events import Checked


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """What the daemon gives each engine to work with."""

    folder: Path
    """Where the engine's root is to be made. It does not exist yet."""
    default: Limits
    """Limits of a run that asks for none."""
    most_memory_bytes: int
    """The most that a run may ask for."""
    cgroup: Cgroup | None
    """The parent of the jails' cgroups, if one can be had."""
    identities: Identities
    options: Any = None
    """The engine's own section of the configuration, if it has one."""


class EngineHost(Protocol):
    """The daemon's side of an engine: a class `Host` in `engines/<name>/host/host.py`."""

    version: str
    """Name and version of what runs programs, with its build if promptlog made it: `quickjs-ng 0.17.0+fbb030e5add6`.
    Empty while the engine is not installed. It is read again when the root is made."""

    artifact_build: str
    """Build of the artifacts that this host makes. Artifacts of another build are made again."""

    def __init__(self, setting: Setting) -> None:
        """Check the settings; start nothing. Raises SandboxError for settings that this host can't hold, RootError."""

    @staticmethod
    def installed() -> str:
        """Return the `version` that is installed now. Raises RootError if it can't be used on this host."""

    def missing(self) -> str | None:
        """Return why the engine can't be used on this host, and what mends that; None if it can be."""

    def is_demanded(self) -> bool:
        """Whether the engine's settings say that it must be there."""

    def set_default(self, default: Limits) -> bool:
        """Change the limits of a run that asks for none, but for their memory. Return whether cells have the old ones.

        Such a cell has the new limits set for each run, which costs time: it is better replaced.
        """

    async def plan(self, memory_bytes: int | None) -> Plan:
        """Return how to start a cell with so much memory, or with the default. The first call makes the root.

        Raises RootError.
        """

    async def start(self, plan: Plan, reactor: Reactor) -> Cell:
        """Start a cell and wait until it is blank. Raises CellStartError."""

    def artifact_bytes(self, source: bytes) -> int:
        """Return the most code that a check of this source may return for its artifact."""

    async def artifact(self, source: bytes, language: Language, checked: Checked) -> Artifact | None:
        """Return what is kept of a checked program; None if the process that checked it can't be believed."""

    def held_by(self) -> dict[str, str]:
        """Return what holds each limit, in words."""


def host_of(spec: EngineSpec) -> type[EngineHost]:
    """Return the daemon's side of an engine. It is imported when it is first asked for."""
    host: type[EngineHost] = import_module(spec.host).Host
    return host
