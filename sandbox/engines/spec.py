"""What there is to know of an engine before it is used. The list is `sandbox.engines.ENGINES`."""

from __future__ import annotations

import msgspec

from sandbox.program import Engine, Language


class EngineSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One engine."""

    name: Engine
    """What messages, commands and the configuration call it."""
    languages: tuple[Language, ...]
    """What it can run; its own first."""
    min_memory_bytes: int
    """A run needs so much: with less the engine has no room to start a program in."""
    forks: bool
    """Whether a cell is ready for its next run at once. If so, a steady number of cells is kept, and the memory of a
    run is set when it begins. If not, cells are kept by recent demand, and each is started with its memory."""
    restart_cpu_ms: float
    """CPU time of making a cell ready again after a run. It is charged to the client of the run."""
    limits_cpu_ms: float = 0.0
    """CPU time of forking a child with other limits for one run, and then one with the default limits. It is charged
    to the client of the run."""
    new_cell_cpu_ms: float
    """CPU time of starting a cell. It is charged to a run that leaves its cell unusable."""
    blank_bytes: int
    """Memory that a blank cell has to itself, at most."""
    beside_run_bytes: int = 0
    """Memory that a jail needs beside that of a run: a process from which others fork."""
    requirement: str = ""
    """What pip is told to install it, if it is optional."""
    host: str
    """The module that has the daemon's side of it, a class `Host`: see `sandbox.engines.host.engine_host`."""
