"""A first benchmark of promptlog: latency and throughput of real runs, beside the floor of this machine.

    python bench/run_bench.py [--seconds 3] [--json FILE]

All loads are closed loops: a client sends its next request when it has the answer to the last. Percentiles are
raw, from all samples. Compare ratios; absolute times are this machine's of this minute. Measured in the same run:
the floor, fork + exit + wait of a small C process and of a bare Python; and the least cell that could be
(bare_cell.py) beside one of promptlog's without its daemon, each back to back and with pauses of 2 ms.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Event as EventType
from pathlib import Path

import trio

from promptlogctl.cli.spawn import private_daemon
from promptlogd.config import Config
from promptlogd.server import quickjs_plan
from promptlogd.wire import ClientSession
from promptlogd.wire.messages import Error, Finished, Id, Reply, Request, Run, Submit, Submitted
from sandbox import cell as cells
from sandbox import root
from sandbox.cell import Job, Trial
from sandbox.engines.quickjs import filter as second_filter
from sandbox.engines.quickjs.replies import Wrapped
from sandbox.outcome import Ok

SAMPLE = (Path(__file__).parents[1] / "examples/reverse.js").read_text()
FLOOR_C = r"""
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
int main(int argc, char **argv) {
    for (int i = 0; i < atoi(argv[1]); i++) {
        struct timespec a, b;
        clock_gettime(CLOCK_MONOTONIC, &a);
        if (!fork()) _exit(0);
        wait(0);
        clock_gettime(CLOCK_MONOTONIC, &b);
        printf("%.9f\n", (b.tv_sec - a.tv_sec) + (b.tv_nsec - a.tv_nsec) / 1e9);
    }
}
"""
FLOOR_PYTHON = """
import os, time
for _ in range({count}):
    t = time.perf_counter()
    p = os.fork()
    if not p:
        os._exit(0)
    os.waitpid(p, 0)
    print(time.perf_counter() - t)
"""


class Caller:
    """The least client: one request, one answer."""

    def __init__(self, path: str, encoding: str = "msgpack") -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(path)
        self.session = ClientSession(encoding=encoding)  # type: ignore[arg-type]

    def ask(self, request: Request) -> Reply:
        """Send a request and wait for its answer."""
        self.sock.sendall(self.session.send(request))
        while True:
            for reply in self.session.receive(self.sock.recv(1 << 20)):
                if isinstance(reply, Error) or (
                    isinstance(reply, Finished) and reply.outcome.__struct_config__.tag != "ok"
                ):
                    sys.exit(f"a benchmark request failed: {reply}")
                return reply


def _client(
    path: str, hash: str, seconds: float, encoding: str, isolation: str | None, out: multiprocessing.Queue
) -> None:  # type: ignore[type-arg]
    caller = Caller(path, encoding)
    samples: list[float] = []
    end = time.perf_counter() + seconds
    number: Id = 0
    while (began := time.perf_counter()) < end:
        caller.ask(Run(id=number, hash=hash, prompt="hello world", isolation=isolation))  # type: ignore[arg-type]
        samples.append(time.perf_counter() - began)
    out.put(samples)


def closed_loop(
    path: str, hash: str, clients: int, seconds: float, *, encoding: str = "msgpack", isolation: str | None = None
) -> tuple[list[float], float]:
    """Return every latency in seconds, and runs/s."""
    out: multiprocessing.Queue[list[float]] = multiprocessing.Queue()
    arguments = (path, hash, seconds, encoding, isolation, out)
    workers = [multiprocessing.Process(target=_client, args=arguments) for _ in range(clients)]
    for worker in workers:
        worker.start()
    samples = [sample for _ in workers for sample in out.get(timeout=seconds + 60)]
    for worker in workers:
        worker.join()
    return sorted(samples), len(samples) / seconds


BOMBS = (
    "for (;;) {}",
    "const a = []; for (;;) a.push(new Uint8Array(1 << 20).fill(1))",
    "for (;;) console.log('x'.repeat(10000))",
    "return 'x'.repeat(900000)",
)


def _bomber(path: str, source: str, stop: EventType) -> None:
    caller = Caller(path)
    while not stop.is_set():
        caller.sock.sendall(caller.session.send(Run(id=1, source=source)))
        while not caller.session.receive(caller.sock.recv(1 << 20)):
            pass


def beside_bombs(path: str, hash: str, seconds: float) -> tuple[list[float], float]:
    """Return a well-behaved client's latencies and runs/s while four others send bombs and floods without pause."""
    stop = multiprocessing.Event()
    bombers = [multiprocessing.Process(target=_bomber, args=(path, source, stop)) for source in BOMBS]
    for bomber in bombers:
        bomber.start()
    time.sleep(0.5)
    try:
        return closed_loop(path, hash, 1, seconds)
    finally:
        stop.set()
        for bomber in bombers:
            bomber.join()


def new_programs(path: str, count: int) -> list[float]:
    """Return the seconds from a program's submit to the end of its first run."""
    caller = Caller(path)
    samples = []
    for number in range(count):
        began = time.perf_counter()
        kept = caller.ask(Submit(id=1, source=f"{SAMPLE}\n// {number} {os.getpid()} {began}"))
        assert isinstance(kept, Submitted)
        caller.ask(Run(id=2, hash=kept.hash, prompt="hello world"))
        samples.append(time.perf_counter() - began)
    return sorted(samples)


def floors(count: int = 2000) -> Iterator[tuple[str, list[float]]]:
    """Yield what was measured, and the seconds of each fork + exit + wait."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "floor.c"
            source.write_text(FLOOR_C)
            subprocess.run([compiler, "-O2", "-o", f"{folder}/floor", str(source)], check=True)
            printed = subprocess.run([f"{folder}/floor", str(count)], check=True, capture_output=True, text=True).stdout
        yield "floor: fork + exit + wait, C", sorted(map(float, printed.split()))
    command = [os.path.realpath(sys.executable), "-ISc", FLOOR_PYTHON.format(count=count)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    yield "floor: fork + exit + wait, bare Python", sorted(map(float, printed.split()))


def bare_cell(pause_s: float, count: int) -> list[float]:
    """Return the seconds of each run of the sample in the least cell that could be."""
    text = f'(function(prompt){{{SAMPLE};return JSON.stringify(result)}})("hello world")'.encode()
    frame = len(text).to_bytes(4, "big") + text
    data, their_data = socket.socketpair()
    control, their_control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with tempfile.TemporaryDirectory() as folder, data, control:
        (Path(folder) / "filter.bpf").write_bytes(second_filter.assemble(root.machine()))
        script = str(Path(__file__).parent / "bare_cell.py")
        command = [os.path.realpath(sys.executable), "-I", "-S", "-B", script, root.engine(), f"{folder}/filter.bpf"]
        with their_data, their_control:
            process = subprocess.Popen(command, stdin=their_data, stdout=their_control)
        samples = []
        for _ in range(count):
            time.sleep(pause_s)
            began = time.perf_counter()
            data.send(frame)
            if control.recv(64) != b"E" or not data.recv(65536):
                sys.exit("the bare cell failed")
            samples.append(time.perf_counter() - began)
        process.kill()
        process.wait()
    return sorted(samples)


async def one_cell(pause_s: float, count: int) -> list[float]:
    """Return the seconds of each run of the sample in one of promptlog's cells, without the daemon."""
    samples = []
    with tempfile.TemporaryDirectory(prefix="promptlog-", dir="/run" if os.geteuid() == 0 else None) as folder:
        os.chmod(folder, 0o755)
        plan = quickjs_plan(Config(), root.build_root(Path(folder) / "root"))
        cell = await cells.start(plan)
        try:
            checked = Trial()
            await cell.run(Job(kind="check", code=SAMPLE.encode(), limits=plan.default), checked)
            assert isinstance(checked.checked, Wrapped)
            job = Job(kind="run", code=checked.checked.code, prompt="hello world", limits=plan.default)
            for _ in range(count):
                await trio.sleep(pause_s)
                trial = Trial()
                began = time.perf_counter()
                await cell.run(job, trial)
                samples.append(time.perf_counter() - began)
                assert isinstance(trial.outcome, Ok), trial.outcome
        finally:
            await cell.close()
    return sorted(samples)


def percentile(samples: list[float], share: float) -> float:
    """Return a raw percentile of sorted samples."""
    return samples[min(len(samples) - 1, int(len(samples) * share))]


@contextmanager
def step(name: str) -> Iterator[None]:
    """Say on stderr what is being measured."""
    print(f"... {name}", file=sys.stderr, flush=True)
    yield


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3.0, help="length of each case")
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "out/bench.json", help="where to write")
    options = parser.parse_args()
    rows: list[tuple[str, list[float], float | None]] = []
    with step("the floor"):
        rows += [(name, samples, None) for name, samples in floors()]
    for pause_s, how in ((0.0, "back to back"), (0.002, "2 ms apart")):
        with step(f"one cell, {how}"):
            rows.append((f"the least cell, {how}", bare_cell(pause_s, 1000), None))
            rows.append((f"one cell without the daemon, {how}", trio.run(one_cell, pause_s, 1000), None))
    with private_daemon(None) as socket_path:
        path = str(socket_path)
        kept = Caller(path).ask(Submit(id=1, source=SAMPLE))
        assert isinstance(kept, Submitted)
        with step("warming up"):
            closed_loop(path, kept.hash, 2, 1)
        cases: list[tuple[str, int, dict[str, str]]] = [
            ("run, 1 client", 1, {}), ("run, 4 clients", 4, {}), ("run, 8 clients", 8, {}),
            ("run, 1 client, JSON lines", 1, {"encoding": "json"}),
            ("run, 1 client, isolation=jail", 1, {"isolation": "jail"}),
        ]  # fmt: skip
        for name, clients, options_of in cases:
            with step(name):
                samples, rate = closed_loop(path, kept.hash, clients, options.seconds, **options_of)
                rows.append((name, samples, rate))
        with step("neighbours"):
            alone, _ = closed_loop(path, kept.hash, 1, options.seconds)
            samples, rate = beside_bombs(path, kept.hash, options.seconds)
            rows.append(("run, 1 client beside 4 that send bombs", samples, rate))
            neighbours = percentile(samples, 0.99) / percentile(alone, 0.99)
        with step("new programs"):
            rows.append(("submit + first run of 200 new programs", new_programs(path, 200), None))
    base = percentile(rows[0][1], 0.5)
    print(f"{'closed loops, raw percentiles':42} {'p50 ms':>8} {'p99 ms':>8} {'runs/s':>8} {'p50 / floor':>12}")
    for name, samples, rate in rows:
        p50, p99 = percentile(samples, 0.5), percentile(samples, 0.99)
        shown = f"{rate:8.0f}" if rate else " " * 8
        print(f"{name:42} {p50 * 1000:8.3f} {p99 * 1000:8.3f} {shown} {p50 / base:12.1f}")
    print(f"a neighbour's p99 beside bombs: {neighbours:.1f} times its p99 alone")
    options.json.parent.mkdir(parents=True, exist_ok=True)
    report = {
        name: {
            "p50_s": percentile(samples, 0.5),
            "p99_s": percentile(samples, 0.99),
            "runs_per_s": rate,
            "samples": len(samples),
        }
        for name, samples, rate in rows
    }
    options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
