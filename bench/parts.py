"""What a run costs by its parts, taken away one at a time. Started by where.py, with as little loaded as a zygote has.

    python -I -S -B parts.py ENGINE.so APP MACHINE RUNS

APP is the folder `app` of a QuickJS jail's root: the zygote's own modules and scripts.

It makes itself a zygote without a jail, and forks children that do ever more. The CPU time of a child and of its parent
are from getrusage(2), on one core.
"""

import gc
import posix
import resource
import sys
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import ExtensionFileLoader

sys.path.insert(0, sys.argv[2])

from sandbox.engines.quickjs.jail.confinement import CLONE, Function, Long, dlsym, libc, syscall
from sandbox.engines.quickjs.jail.engine import Engine
from sandbox.engines.quickjs.jail.zygote import CLONE_AS_FORK


def text(name: str) -> str:
    """Return a file of the zygote's."""
    with open(f"{sys.argv[2]}/{name}", encoding="utf-8") as file:
        return file.read()


def cpu_us(who: int) -> float:
    """Return the CPU time of this process, or of its ended children."""
    used = resource.getrusage(who)
    return (used.ru_utime + used.ru_stime) * 1e6


def measure(engine: Engine, code: str | None, runs: int) -> str:
    """Return the CPU us of a child that evaluates this, of its parent, of both, and the child's minor faults."""
    child, parent = cpu_us(resource.RUSAGE_CHILDREN), cpu_us(resource.RUSAGE_SELF)
    faults = resource.getrusage(resource.RUSAGE_CHILDREN).ru_minflt
    for _ in range(runs):
        pid = syscall(CLONE, CLONE_AS_FORK, 0, 0, 0, 0)
        if pid == 0:
            if code is not None:
                engine.run(code)
            posix._exit(0)
        posix.waitpid(pid, 0)
    child, parent = cpu_us(resource.RUSAGE_CHILDREN) - child, cpu_us(resource.RUSAGE_SELF) - parent
    faults = resource.getrusage(resource.RUSAGE_CHILDREN).ru_minflt - faults
    return f"{child / runs:8.0f}{parent / runs:8.0f}{(child + parent) / runs:8.0f}{faults / runs:8.0f}"


def main(runs: int) -> None:
    """Measure, print."""
    loader = ExtensionFileLoader("_jsbox", sys.argv[1])
    jsbox = loader.create_module(ModuleSpec("_jsbox", loader, origin=sys.argv[1]))
    loader.exec_module(jsbox)
    first = text("platform.js") + text("contract.js")
    scripts = (first + text("prelude.js"), text("builtins.js"))
    engine = Engine(jsbox.Runtime, lambda kind, payload: None, *scripts)
    before, after = text("brackets").split("\0")[7:]
    sample = sys.stdin.read()
    cases = {
        "does nothing": None,
        "evaluates a string": "'\"1\"'",
        "the sample, bare": f"(function (prompt) {{{sample}\n;return JSON.stringify(result)}})('hello world')",
        "the sample, wrapped": before + sample + after + ", 'hello world', '{}', 1048576, 65536, 1, 2, 3)",
    }
    del first, scripts
    gc.collect()
    Function(dlsym(libc, "malloc_trim"))(Long(0))
    gc.freeze()
    gc.disable()
    posix.sched_setaffinity(0, {min(posix.sched_getaffinity(0))})
    print(f"{'a child that ...: CPU us':24}{'child':>8}{'parent':>8}{'both':>8}{'faults':>8}")
    for name, code in cases.items():
        print(f"{name:24}{measure(engine, code, runs)}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[4]))
