"""Deno: a process with V8 and the web platform, started in advance for each run."""

from sandbox.engines.spec import EngineSpec

SPEC = EngineSpec(
    name="deno",
    languages=("javascript", "typescript"),
    min_memory_bytes=64 << 20,
    forks=False,
    restart_cpu_ms=20.0,
    new_cell_cpu_ms=20.0,
    blank_bytes=32 << 20,
    requirement="deno>=2.9.8,<3",
    host="sandbox.engines.deno.host.host",
)
