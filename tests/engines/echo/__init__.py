"""An engine for tests that returns the prompt. This folder contains everything that a third engine needs."""

from __future__ import annotations

from sandbox.engines.spec import EngineSpec

SPEC = EngineSpec(
    name="echo",
    languages=("javascript",),
    min_memory_bytes=1 << 20,
    forks=False,
    restart_cpu_ms=1.0,
    new_cell_cpu_ms=5.0,
    blank_bytes=1 << 20,
    host="tests.engines.echo.host",
)
