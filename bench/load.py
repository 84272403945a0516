"""Builds and runs the load generator (load.c), and reads its measurements."""

from __future__ import annotations

import array
import math
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Load:
    """The measurements of one load. Times are in seconds. `latencies` has every raw latency, sorted.

    A request with a wrong reply or without a reply has an infinite latency.
    """

    latencies: Sequence[float]
    wrong: int
    seconds: float
    own_cpu_s: float
    unanswered: int = 0

    @property
    def rate(self) -> float:
        """Replies per second."""
        return len(self.latencies) / self.seconds

    def ms(self, share: float) -> float:
        """Return a raw percentile in milliseconds."""
        return percentile(self.latencies, share) * 1000


def percentile(samples: Sequence[float], share: float) -> float:
    """Return a raw percentile of sorted samples."""
    return samples[min(len(samples) - 1, int(len(samples) * share))]


@contextmanager
def built(*sources: str) -> Iterator[Path]:
    """Context manager: compile each of these C files to a program, in a temporary folder."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        sys.exit("the benchmarks need a C compiler; on Debian: apt-get install gcc libc6-dev")
    with tempfile.TemporaryDirectory(prefix="promptlog-bench-") as folder:
        for source in sources:
            subprocess.run([compiler, "-O2", "-o", f"{folder}/{Path(source).stem}", str(HERE / source)], check=True)
        yield Path(folder)


def run(
    tools: Path,
    target: str,
    framing: str,
    requests: Sequence[bytes],
    *,
    expect: str,
    connections: int = 1,
    seconds: float = 3.0,
    rate: float = 0.0,
    grace_s: float | None = None,
) -> Load:
    """Generate load: a closed loop, or with `rate` (requests/s) an open loop.

    If the server is under attack, set `grace_s`: requests without a reply this long after the end are then counted.
    Without it, a missing reply, or a connection that the server closes, raises RuntimeError.
    """
    plan, out = tools / "requests", tools / "latencies"
    plan.write_bytes(b"".join(struct.pack("=I", len(request)) + request for request in requests))
    arguments = (
        target,
        framing,
        plan,
        connections,
        seconds,
        rate,
        expect,
        out,
        *([] if grace_s is None else [grace_s]),
    )
    done = subprocess.run(
        [tools / "load", *map(str, arguments)], capture_output=True, text=True, timeout=seconds + 60, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip() or f"the load generator ended with {done.returncode}")
    answers, wrong, took, cpu, unanswered = done.stdout.split()
    latencies = array.array("d", out.read_bytes())
    assert len(latencies) == int(answers)
    samples = sorted(latencies) + [math.inf] * int(unanswered)
    return Load(samples, int(wrong), float(took), float(cpu), int(unanswered))


def _of_tasks(pid: int, file: str) -> list[str]:
    """Return the contents of each thread's file. A thread may end in the meantime."""
    found = []
    for task in os.listdir(f"/proc/{pid}/task"):
        try:
            found.append(Path(f"/proc/{pid}/task/{task}/{file}").read_text())
        except OSError:
            continue
    return found


def cpu_s(pid: int) -> float:
    """Return the CPU seconds of all threads of a live process (schedstat: nanoseconds)."""
    return sum(int(text.split()[0]) for text in _of_tasks(pid, "schedstat")) / 1e9


def waited_cpu_s(pid: int) -> float:
    """Return the CPU seconds of its ended children, with a resolution of 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[13:15])) / os.sysconf("SC_CLK_TCK")


def children(pid: int) -> list[int]:
    """Return the pids of the children of all threads."""
    return [int(child) for text in _of_tasks(pid, "children") for child in text.split()]


def resident_kib(pid: int) -> int:
    """Return a process's resident memory."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0
