"""QuickJS: a zygote in a jail forks a child for each run."""

from sandbox.engines.spec import EngineSpec

SPEC = EngineSpec(
    name="quickjs",
    languages=("javascript",),
    build="3",
    min_memory_bytes=32 << 20,
    forks=True,
    restart_cpu_ms=0.2,
    limits_cpu_ms=1.0,
    new_cell_cpu_ms=20.0,
    blank_bytes=16 << 20,
    beside_run_bytes=64 << 20,
    host="sandbox.engines.quickjs.host.host",
)
