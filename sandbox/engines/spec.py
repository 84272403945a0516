"""Static properties of an engine. The list of engines is `sandbox.engines.ENGINES`."""

from __future__ import annotations

import msgspec

from sandbox.program import Engine, Language


class EngineSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One engine."""

    name: Engine
    """Name in messages, commands and the configuration."""
    languages: tuple[Language, ...]
    """Supported languages, its own first."""
    min_memory_bytes: int
    """Minimum memory limit of a run. With less, the engine cannot start a program."""
    forks: bool
    """Whether a cell is ready for its next run at once. If so, the pool has a fixed size, and the memory limit of a run
    is set at its start. If not, the size of the pool follows demand, and each cell is started with its memory limit."""
    restart_cpu_ms: float
    """CPU time for preparing a cell again after a run. It is charged to the client of the run."""
    limits_cpu_ms: float = 0.0
    """CPU time for forking a child with other limits for one run, and then one with the default limits. It is charged
    to the client of the run."""
    new_cell_cpu_ms: float
    """CPU time for starting a cell. It is charged to a run after which its cell must be replaced."""
    blank_bytes: int
    """Maximum private memory of a blank cell."""
    beside_run_bytes: int = 0
    """Memory that a jail needs in addition to a run's: a process from which others fork."""
    requirement: str = ""
    """pip's requirement specifier, if the engine is optional."""
    host: str
    """Module with the daemon's side of the engine, a class `Host`: see `sandbox.engines.host.engine_host`."""
