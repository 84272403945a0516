"""The interface of the daemon's side of every engine, and the settings that it receives."""

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
    """The settings for each engine."""

    folder: Path
    """Folder in which to create the engine's root. It does not exist yet."""
    default: Limits
    """Limits of a run that asks for none."""
    most_memory_bytes: int
    """Maximum memory limit of a run."""
    cgroup: Cgroup | None
    """The parent of the jails' cgroups, if there is one."""
    identities: Identities
    options: Any = None
    """The engine's own section of the configuration, if it has one."""


class EngineHost(Protocol):
    """The daemon's side of an engine: a class `Host` in `engines/<name>/host/host.py`."""

    version: str
    """Name and version of the engine, with the build if promptlog built it: `quickjs-ng 0.17.0+fbb030e5add6`. Empty
    while the engine is not installed. It is read again when the root is created."""

    artifact_build: str
    """Build of the artifacts that this host makes. Artifacts of another build are made again."""

    def __init__(self, setting: Setting) -> None:
        """Check the settings, without starting anything. Raises SandboxError for settings that this host does not
        support, and RootError."""

    @staticmethod
    def installed() -> str:
        """Return the `version` that is installed now. Raises RootError if it cannot be used on this host."""

    def missing(self) -> str | None:
        """Return why the engine cannot be used on this host, and the fix. None if it can be used."""

    def is_demanded(self) -> bool:
        """Whether the settings require the engine to be installed."""

    def set_default(self, default: Limits) -> bool:
        """Change the default limits of runs, except memory. Return whether existing cells have the old defaults.

        In such a cell, each run must set the new limits, which takes time. So the caller replaces these cells.
        """

    async def plan(self, memory_bytes: int | None) -> Plan:
        """Return how to start a cell with this memory limit, or with the default. The first call creates the root.

        Raises RootError.
        """

    async def start(self, plan: Plan, reactor: Reactor) -> Cell:
        """Start a cell and wait until it is blank. Raises CellStartError."""

    def artifact_bytes(self, source: bytes) -> int:
        """Return the maximum size of the code that a check of this source may return."""

    def artifact_at_once(self, language: Language, checked: Checked) -> Artifact | None:
        """Return the artifact of a checked program if that takes microseconds. If it is None, call `artifact`."""

    async def artifact(self, source: bytes, language: Language, checked: Checked) -> Artifact | None:
        """Return the artifact of a checked program; None if the answer of the process is invalid."""

    def held_by(self) -> dict[str, str]:
        """Describe what enforces each limit."""


def host_of(spec: EngineSpec) -> type[EngineHost]:
    """Return the daemon's side of an engine. It is imported at first use."""
    host: type[EngineHost] = import_module(spec.host).Host
    return host
