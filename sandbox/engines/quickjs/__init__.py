"""QuickJS: a zygote in a jail forks a child for each run."""

from sandbox.engines.spec import EngineSpec

SPEC = EngineSpec(
    name="quickjs",
    languages=("javascript",),
    min_memory_bytes=8 << 20,
    forks=True,
    restart_cpu_ms=0.1,
    limits_cpu_ms=0.5,
    new_cell_cpu_ms=5.0,
    blank_bytes=8 << 20,
    beside_run_bytes=16 << 20,
    host="sandbox.engines.quickjs.host.host",
)
