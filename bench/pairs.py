"""Measures two versions of promptlog in turn, in pairs, to show how a change affects the cost of a run.

    python bench/pairs.py CHECKOUT [--pairs 20] [--seconds 2] [--clients 8] [--isolation jail]
    python bench/pairs.py . --other-config FILE [--scrape]

CHECKOUT is a folder with another version and its virtual environment (`git worktree add`, then `make demo` there). With
`.` two configurations of this version are compared. With `--scrape` the benchmark reads this version's metrics once a
second.

Both daemons run for the whole time, each with its own state folder. In each pair, the same load is applied to one
daemon and then to the other: a closed loop of the stored sample program. The order alternates. A figure is the median
over the pairs. A ratio is the median of the ratios of the pairs, this version divided by the other one. Only the p99.9
is that of all samples of a version, because one load has too few of them.

CPU counts every process of a daemon: the daemon, its cells, and their ended children.
"""

from __future__ import annotations

import argparse
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import load
from caller import EXPECT, PROMPT, SAMPLE, Caller, frames, submitted
from table import say

from promptlogd.wire.messages import Run

_START_S = 30.0


def _descendants(pid: int) -> list[int]:
    found = [pid]
    for parent in found:
        try:
            found.extend(load.children(parent))
        except OSError:  # it has just ended
            continue
    return found


def _cpu_s(pid: int) -> float:
    """Return the CPU time of a daemon and of all its processes, including ended ones."""
    total = 0.0
    for process in _descendants(pid):
        try:
            total += load.cpu_s(process) + load.waited_cpu_s(process)
        except OSError:
            continue
    return total


def _dirty_kib(pid: int) -> int | None:
    """Return the private dirty memory of a process; None if it has just ended."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return None
    return sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Private_Dirty:"))


class _Side:
    """One version's daemon."""

    def __init__(self, process: subprocess.Popen[bytes], path: str, isolation: str | None) -> None:
        self._process = process
        self.path = path
        run = Run(id=1, hash=submitted(path, SAMPLE), prompt=PROMPT, isolation=isolation)  # type: ignore[arg-type]
        self._frames = frames([run])
        self.figures: list[dict[str, float]] = []
        self.latencies: list[float] = []
        """All samples, in seconds."""

    def measure(self, tools: Path, clients: int, seconds: float) -> None:
        """Run one load."""
        before, daemon_before = _cpu_s(self._process.pid), load.cpu_s(self._process.pid)
        done = load.run(tools, self.path, "prefix", self._frames, expect=EXPECT, connections=clients, seconds=seconds)
        self.latencies += done.latencies
        runs = len(done.latencies) / 1e6
        self.figures.append({
            "runs/s": done.rate,
            "p50 ms": done.ms(0.5),
            "p99 ms": done.ms(0.99),
            "CPU us, daemon": (load.cpu_s(self._process.pid) - daemon_before) / runs,
            "CPU us, all": (_cpu_s(self._process.pid) - before) / runs,
        })  # fmt: skip

    def zygote_kib(self) -> float:
        """Return the median of the memory of its cells' zygotes."""
        nsjails = [pid for pid in load.children(self._process.pid) if b"nsjail" in _command(pid)]
        found = [_dirty_kib(zygote) for pid in nsjails for zygote in load.children(pid)]
        return statistics.median(kib for kib in found if kib is not None)


def _command(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


@contextmanager
def _daemon(checkout: Path, isolation: str | None = None, config: str = "") -> Iterator[_Side]:
    executable = checkout / ".venv/bin/promptlogd"
    if not executable.exists():
        sys.exit(f"{executable} is missing: `make demo` in {checkout} makes it")
    with tempfile.TemporaryDirectory(prefix="promptlog-bench-") as folder:
        path = f"{folder}/socket"
        command = [executable, "--socket", path, "--state-dir", f"{folder}/state"]
        if config:
            Path(f"{folder}/promptlog.toml").write_text(config)
            command += ["--config", f"{folder}/promptlog.toml"]
        process = subprocess.Popen(command, cwd=checkout, stderr=subprocess.DEVNULL)
        try:
            ends = time.monotonic() + _START_S
            while not Path(path).exists():
                if process.poll() is not None or time.monotonic() > ends:
                    sys.exit(f"the daemon of {checkout} did not start")
                time.sleep(0.05)
            Caller(path).ask(Run(id=1, source="return 1"))
            yield _Side(process, path, isolation)
        finally:
            process.terminate()
            process.wait()


@contextmanager
def _scraped(path: str) -> Iterator[None]:
    """Serve a daemon's metrics for the block, and read them once a second."""
    with tempfile.TemporaryDirectory(prefix="promptlog-bench-") as folder:
        listener = f"{folder}/metrics"
        command = [sys.executable, "-m", "promptlogctl", "metrics", "--socket", path, "--listen", f"unix:{listener}"]
        server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        over = threading.Event()

        def read() -> None:
            while not over.wait(1):
                with socket.socket(socket.AF_UNIX) as client:
                    client.connect(listener)
                    client.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                    while client.recv(1 << 16):
                        pass

        reader = threading.Thread(target=read)
        try:
            ends = time.monotonic() + _START_S
            while not Path(listener).exists():
                if server.poll() is not None or time.monotonic() > ends:
                    sys.exit("the server of the metrics did not start")
                time.sleep(0.05)
            reader.start()
            yield
        finally:
            over.set()
            if reader.is_alive():
                reader.join()
            server.terminate()
            server.wait()


def in_turn(tools: Path, sides: Sequence[_Side], clients: int, seconds: float, pairs: int) -> None:
    """Run the same loads on both sides in turn."""
    for side in sides:
        side.measure(tools, clients, 1.0)
        side.figures.clear()
        side.latencies.clear()
    for number in range(pairs):
        say(f"pair {number + 1} of {pairs}")
        for side in sides if number % 2 else reversed(sides):
            side.measure(tools, clients, seconds)


def ratio(this: _Side, other: _Side, figure: str) -> float:
    """Return the median of the ratios of the pairs."""
    pairs = zip(this.figures, other.figures, strict=True)
    return statistics.median(ours[figure] / theirs[figure] for ours, theirs in pairs)


def cost_of_operation(tools: Path, clients: int, seconds: float, pairs: int = 5) -> dict[str, float]:
    """Return the ratios of a daemon with a journal and metrics that are read each second to one with neither."""
    here = Path(__file__).parents[1]
    with ExitStack() as stack:
        this = stack.enter_context(_daemon(here))
        other = stack.enter_context(_daemon(here, config="[journal]\nenabled = false\n"))
        stack.enter_context(_scraped(this.path))
        in_turn(tools, (this, other), clients, seconds, pairs)
        return {"runs/s": ratio(this, other, "runs/s"), "CPU of the daemon": ratio(this, other, "CPU us, daemon")}


def _show(this: _Side, other: _Side) -> None:
    print(f"{'':<20} {'other':>10} {'this':>10} {'ratio':>8}")
    for name in this.figures[0]:
        ours, theirs = ([figures[name] for figures in side.figures] for side in (this, other))
        by = ratio(this, other, name)
        print(f"{name:<20} {statistics.median(theirs):>10.3f} {statistics.median(ours):>10.3f} {by:>8.3f}")
        if name == "p99 ms":
            ours_ms, theirs_ms = (load.percentile(sorted(side.latencies), 0.999) * 1000 for side in (this, other))
            print(f"{'p99.9 ms, all':<20} {theirs_ms:>10.3f} {ours_ms:>10.3f} {ours_ms / theirs_ms:>8.3f}")
    ours_kib, theirs_kib = this.zygote_kib(), other.zygote_kib()
    print(f"{'zygote, dirty KiB':<20} {theirs_kib:>10.0f} {ours_kib:>10.0f} {ours_kib / theirs_kib:>8.3f}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description="two versions of promptlog in pairs")
    parser.add_argument("checkout", type=Path, help="the folder of the other version")
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=2.0, help="length of each load")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--isolation", choices=["jail"], help="a new jail for each run")
    parser.add_argument("--other-config", type=Path, help="configuration file of the other daemon")
    parser.add_argument("--scrape", action="store_true", help="read this version's metrics once a second")
    options = parser.parse_args(arguments)
    config = "" if options.other_config is None else options.other_config.read_text()
    with load.built("load.c") as tools, ExitStack() as stack:
        this = stack.enter_context(_daemon(Path(__file__).parents[1], options.isolation))
        other = stack.enter_context(_daemon(options.checkout.resolve(), options.isolation, config))
        if options.scrape:
            stack.enter_context(_scraped(this.path))
        in_turn(tools, (this, other), options.clients, options.seconds, options.pairs)
        _show(this, other)


if __name__ == "__main__":
    main()
