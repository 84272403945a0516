"""promptlog alone, measured: `make bench`.

    python bench/run_bench.py [--seconds 3] [--rounds 1] [--json FILE]

The loads are closed loops unless a row says otherwise: a client sends its next request when it has the answer to the
last. Percentiles are raw, from all samples. Compare ratios; absolute times are this machine's of this minute. In the
same run: the floor, fork + exit + wait of a small C process behind a socketpair, and of a bare Python; and the least
cell that could be (bare_cell.py) beside one of promptlog's without its daemon. With several rounds each figure is
their median.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.synchronize import Event as EventType
from pathlib import Path

import load
import msgspec
import trio
from load import Load, percentile

from promptlogctl.cli.spawn import private_daemon
from promptlogd.config import Config
from promptlogd.server import quickjs_plan
from promptlogd.wire import ClientSession
from promptlogd.wire.messages import Error, Finished, LimitsAsked, Reply, Request, Run, Submit, Submitted
from sandbox import root
from sandbox.cells import Job, Trial
from sandbox.cells import quickjs as cells
from sandbox.cells.job import Engine
from sandbox.engines.quickjs import filter as second_filter
from sandbox.engines.replies import Wrapped
from sandbox.outcome import Ok

SAMPLE = (Path(__file__).parents[1] / "examples/reverse.js").read_text()
EXPECT = "dlrow olleh"
PROMPT = "hello world"
# About 20 ms of QuickJS: the loop is made as long as it must be, see `heavy`.
HEAVY = (
    "let sum = 0; for (let i = 0; i < {count}; i++) sum = (sum + i * i) % 1000003; const result = 'dlrow olleh' + sum"
)
SIEVE = (
    "const n = 2e6, a = new Uint8Array(n); let c = 0;"
    "for (let i = 2; i < n; i++) if (!a[i]) { c++; for (let j = i * 2; j < n; j += i) a[j] = 1; } return c"
)
OVER = (
    "for (;;) {}",
    "const a = []; for (;;) a.push({a: 1})",
    "const s = '[' + '[1],'.repeat(100000) + '1]'; for (;;) JSON.parse(s)",
    "let a; for (;;) a = new Array(1000).fill({b: 1})",
)
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


BOMBS = (
    "for (;;) {}",
    "const a = []; for (;;) a.push(new Uint8Array(1 << 20).fill(1))",
    "for (;;) console.log('x'.repeat(10000))",
    "return 'x'.repeat(900000)",
)


def _bomber(path: str, source: str, engine: Engine, stop: EventType) -> None:
    caller = Caller(path)
    while not stop.is_set():
        caller.sock.sendall(caller.session.send(Run(id=1, source=source, engine=engine)))
        while not caller.session.receive(caller.sock.recv(1 << 20)):
            pass


@contextmanager
def bombs(path: str, engine: Engine = "quickjs") -> Iterator[None]:
    """Four clients that send bombs and floods without pause."""
    stop = multiprocessing.Event()
    bombers = [multiprocessing.Process(target=_bomber, args=(path, source, engine, stop)) for source in BOMBS]
    for bomber in bombers:
        bomber.start()
    time.sleep(0.5)
    try:
        yield
    finally:
        stop.set()
        for bomber in bombers:
            bomber.join()


def frames(requests: Sequence[Request], encoding: str = "msgpack") -> list[bytes]:
    """Return requests as they go over the socket."""
    session = ClientSession(encoding=encoding)  # type: ignore[arg-type]
    return [session.send(request) for request in requests]


def submitted(path: str, source: str) -> str:
    """Submit a program and return its hash."""
    kept = Caller(path).ask(Submit(id=1, source=source))
    assert isinstance(kept, Submitted)
    return kept.hash


def new_programs(path: str, count: int) -> list[float]:
    """Return the seconds from a program's submit to the end of its first run."""
    caller = Caller(path)
    samples = []
    for number in range(count):
        began = time.perf_counter()
        kept = caller.ask(Submit(id=1, source=f"{SAMPLE}\n// {number} {os.getpid()} {began}"))
        assert isinstance(kept, Submitted)
        caller.ask(Run(id=2, hash=kept.hash, prompt=PROMPT))
        samples.append(time.perf_counter() - began)
    return sorted(samples)


def heavy(path: str) -> str:
    """Return a program that takes about 20 ms of CPU here and now."""
    count = 10_000
    caller = Caller(path)
    while True:
        reply = caller.ask(Run(id=1, source=HEAVY.format(count=count), limits=LimitsAsked(cpu_ms=1000)))
        assert isinstance(reply, Finished)
        if reply.usage.cpu_ms >= 10:
            return HEAVY.format(count=int(count * 20 / reply.usage.cpu_ms))
        count *= 2


def bare_deno(seconds: float, at_once: int) -> tuple[list[float], float]:
    """Run the sample by a bare `deno run` each, so many at once. Returns sorted seconds, and runs/s."""
    with tempfile.TemporaryDirectory(prefix="promptlog-bench-") as folder:
        program = Path(folder) / "program.js"
        program.write_text(f"const prompt = Deno.args[0];\n{SAMPLE}\nconsole.log(JSON.stringify(result));\n")
        command = [root.deno_executable(), "run", "--no-config", "--no-remote", "--no-prompt", program, PROMPT]
        environment = {"DENO_NO_UPDATE_CHECK": "1", "DENO_DIR": f"{folder}/cache"}
        samples: list[float] = []

        def client(samples: list[float], end: float) -> None:
            while (began := time.perf_counter()) < end:
                done = subprocess.run(command, stdout=subprocess.PIPE, cwd=folder, env=environment, check=True)
                assert EXPECT.encode() in done.stdout
                samples.append(time.perf_counter() - began)

        client([], time.perf_counter() + 0.5)
        began = time.perf_counter()
        threads = [threading.Thread(target=client, args=(samples, began + seconds)) for _ in range(at_once)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sorted(samples), len(samples) / (time.perf_counter() - began)


def on_deno(table: Table, tools: Path, path: str, seconds: float) -> None:
    """Measure the engine Deno beside a bare `deno run` of the same program."""
    say("on Deno")
    sample = [Run(id=1, hash=submitted(path, SAMPLE), prompt=PROMPT, engine="deno")]
    wanted = frames(sample)
    load.run(tools, path, "prefix", wanted, expect=EXPECT, connections=4, seconds=1)
    paced = load.run(tools, path, "prefix", wanted, expect=EXPECT, connections=4, seconds=2 * seconds, rate=10)
    table.add_load("on Deno, a blank cell ready (10/s)", paced)
    rates = {}
    for connections in (1, 8):
        done = load.run(tools, path, "prefix", wanted, expect=EXPECT, connections=connections, seconds=2 * seconds)
        table.add_load(f"on Deno, {connections} client{'s' * (connections > 1)}", done)
        rates[connections] = done.rate
    short = [Run(id=1, hash=submitted(path, SAMPLE), prompt=PROMPT)]
    beside = {}
    for name, requests in (("on Deno", sample), ("on QuickJS", short)):
        alone = load.run(tools, path, "prefix", frames(requests), expect=EXPECT, connections=1, seconds=2 * seconds)
        with bombs(path, "deno"):
            done = load.run(tools, path, "prefix", frames(requests), expect=EXPECT, connections=1, seconds=2 * seconds)
        table.add_load(f"{name}, 1 client beside 4 that send Deno bombs", done)
        beside[name] = done.ms(0.99) / alone.ms(0.99)
    for name, ratio in beside.items():
        table.add(f"{name}, p99 beside Deno bombs / p99 alone", ratio=ratio)
    bare = {}
    for at_once in (1, 4):
        samples, rate = bare_deno(seconds, at_once)
        table.add_samples(f"bare deno run, {at_once} at once", samples, rate)
        bare[at_once] = (percentile(samples, 0.5), rate)
    table.add("on Deno, a blank cell ready: p50 / bare deno run's", ratio=paced.ms(0.5) / 1000 / bare[1][0])
    table.add("on Deno, 8 clients: runs/s / bare deno run's", ratio=rates[8] / bare[4][1])
    caller = Caller(path)
    used: dict[str, float] = {}
    for engine in ("quickjs", "deno"):
        reply = caller.ask(Run(id=1, source=SIEVE, engine=engine, limits=LimitsAsked(cpu_ms=5000)))  # type: ignore[arg-type]
        assert isinstance(reply, Finished)
        used[engine] = reply.usage.cpu_ms
    table.add("a sieve of 2,000,000: CPU ms", **used)
    table.add("a sieve of 2,000,000: quickjs / deno", ratio=used["quickjs"] / used["deno"])
    overrun = []
    for source in OVER:
        for _ in range(10):
            caller.sock.sendall(caller.session.send(Run(id=1, source=source, engine="deno")))
            while not (replies := caller.session.receive(caller.sock.recv(1 << 20))):
                pass
            (reply,) = replies
            assert isinstance(reply, Finished)
            overrun.append(reply.usage.cpu_ms - 50)
    table.add(
        "on Deno, CPU over the limit of 50 ms, of 40 runs", most_ms=max(overrun), median_ms=statistics.median(overrun)
    )


def floors(tools: Path, count: int = 2000) -> Iterator[tuple[str, list[float]]]:
    """Yield what was measured, and the seconds of each fork + exit + wait."""
    printed = subprocess.run([tools / "floor", str(count)], check=True, capture_output=True, text=True).stdout
    *samples, cpu = printed.splitlines()
    yield "floor: fork + exit + wait, C", sorted(map(float, samples))
    yield "floor: its CPU time", [float(cpu.split()[1])]
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


Account = tuple[float, dict[int, tuple[float, float]]]
"""CPU seconds of the daemon, and of each zygote: its own, and its children's."""


class Daemon:
    """A private daemon, and the account of its processes."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        (self.pid,) = (pid for pid in load.children(os.getpid()) if b"promptlogd" in _command(pid))

    def cpu(self) -> Account:
        """Return what was used until now."""
        zygotes = [zygote for nsjail in load.children(self.pid) for zygote in load.children(nsjail)]
        return load.cpu_s(self.pid), {pid: (load.cpu_s(pid), load.waited_cpu_s(pid)) for pid in zygotes}


def _command(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


class Table:
    """Rows of figures: name -> what was measured, per round."""

    def __init__(self) -> None:
        self.rounds: dict[str, list[dict[str, float]]] = {}

    def add(self, name: str, **figures: float) -> None:
        """Add one round's figures."""
        self.rounds.setdefault(name, []).append(figures)

    def add_samples(self, name: str, samples: Sequence[float], rate: float | None = None) -> None:
        """Add the percentiles of sorted samples, in milliseconds."""
        figures = {f"p{share:g}": percentile(samples, share / 100) * 1000 for share in (50, 90, 99, 99.9)}
        if rate is not None:
            figures["per_s"] = rate
        self.add(name, samples=len(samples), **figures)

    def add_load(self, name: str, measured: Load) -> None:
        """Add a load's percentiles and rate; a wrong answer ends the benchmark."""
        if measured.wrong:
            sys.exit(f"{name}: {measured.wrong} answers were not what they should be")
        self.add_samples(name, measured.latencies, measured.rate)

    def medians(self) -> dict[str, dict[str, float]]:
        """Return each figure's median over the rounds."""
        return {
            name: {
                figure: statistics.median(of[figure] for of in rounds if figure in of)
                for figure in {figure: None for of in rounds for figure in of}
            }
            for name, rounds in self.rounds.items()
        }


def say(name: str) -> None:
    """Say on stderr what is being measured."""
    print(f"... {name}", file=sys.stderr, flush=True)


def measure(table: Table, tools: Path, seconds: float) -> None:
    """Measure everything once."""
    say("the floor")
    for name, samples in floors(tools):
        if len(samples) == 1:
            table.add(name, cpu_us=samples[0] * 1e6)
        else:
            table.add_samples(name, samples)
    for pause_s, how in ((0.0, "back to back"), (0.002, "2 ms apart")):
        say(f"one cell, {how}")
        table.add_samples(f"the least cell, {how}", bare_cell(pause_s, 1000))
        table.add_samples(f"one cell without the daemon, {how}", trio.run(one_cell, pause_s, 1000))
    began = time.perf_counter()
    with private_daemon(None) as socket_path:
        table.add("from start to ready", ms=(time.perf_counter() - began) * 1000)
        daemon = Daemon(socket_path)
        _with_daemon(table, tools, seconds, daemon)
        on_deno(table, tools, daemon.path, seconds)


def _with_daemon(table: Table, tools: Path, seconds: float, daemon: Daemon) -> None:
    path = daemon.path

    def closed(
        name: str, requests: Sequence[Request], connections: int, *, encoding: str = "msgpack", expect: str = EXPECT
    ) -> Load:
        say(name)
        framing = "line" if encoding == "json" else "prefix"
        sent = frames(requests, encoding)
        done = load.run(tools, path, framing, sent, expect=expect, connections=connections, seconds=seconds)
        table.add_load(name, done)
        return done

    sample = [Run(id=1, hash=submitted(path, SAMPLE), prompt=PROMPT)]
    say("warming up")
    load.run(tools, path, "prefix", frames(sample), expect=EXPECT, connections=4, seconds=1)
    rates: dict[int, float] = {}
    for connections, name in ((1, "run, 1 client"), (8, "run, 8 clients"), (32, "run, 32 clients")):
        rates[connections] = closed(name, sample, connections).rate
        for _ in range(3):
            before = daemon.cpu()
            done = load.run(tools, path, "prefix", frames(sample), expect=EXPECT, connections=connections, seconds=1)
            if (parts := _cpu_us(before, daemon.cpu(), done)) is not None:
                row = f"CPU us for each run, {connections} client{'s' * (connections > 1)}"
                table.add(row, **parts, all=sum(parts.values()))
                break
    table.add("runs/s, 8 clients / 1 client", ratio=rates[8] / rates[1])
    say("open loop")
    table.add_load(
        "run, open loop at 500/s",
        load.run(tools, path, "prefix", frames(sample), expect=EXPECT, connections=64, seconds=seconds, rate=500),
    )
    say("200 programs")
    many = [Run(id=1, hash=submitted(path, f"{SAMPLE}\n// program {number}"), prompt=PROMPT) for number in range(200)]
    closed("run, 8 clients, 200 programs in turn", many, 8)
    say("500 new programs")
    table.add_samples("submit + first run of 500 new programs", new_programs(path, 500))
    large = "const filler = [" + ", ".join(f"'word{number}'" for number in range(9000)) + "];\n" + SAMPLE
    closed(f"run, a program of {len(large) // 1024} KB", [Run(id=1, hash=submitted(path, large), prompt=PROMPT)], 1)
    closed("run, a prompt of 1 MB", [
        Run(id=1, hash=submitted(path, "return prompt.length + 'dlrow olleh'"), prompt="x" * 1_000_000)
    ], 1)  # fmt: skip
    closed("run, a result of 1 MB", [
        Run(id=1, hash=submitted(path, "return 'dlrow olleh' + 'x'.repeat(1000000)"))
    ], 1)  # fmt: skip
    closed("run, 20 ms of work, 1 client", [Run(id=1, hash=submitted(path, heavy(path)))], 1)
    closed("run, 1 client, isolation=jail", [msgspec.structs.replace(sample[0], isolation="jail")], 1)
    closed("run, 1 client, JSON lines", sample, 1, encoding="json")
    alone = closed("run, 1 client, again", sample, 1)
    with bombs(path):
        beside = closed("run, 1 client beside 4 that send bombs", sample, 1)
    table.add("p99 beside bombs / p99 alone", ratio=beside.ms(0.99) / alone.ms(0.99))
    say("1,000 stored programs")
    before = load.resident_kib(daemon.pid)
    for number in range(1000):
        submitted(path, f"{SAMPLE}\n// stored {number}")
    table.add("memory for each of 1,000 stored programs", kib=(load.resident_kib(daemon.pid) - before) / 1000)


def _cpu_us(before: Account, after: Account, done: Load) -> dict[str, float] | None:
    """Return the CPU time of a run by part; None if a cell was replaced meanwhile: its account is gone."""
    if after[1].keys() != before[1].keys():
        return None
    zygotes, children = (sum(after[1][pid][at] - before[1][pid][at] for pid in before[1]) for at in (0, 1))
    parts = {"daemon": after[0] - before[0], "zygotes": zygotes, "children": children, "client": done.own_cpu_s}
    return {part: used / len(done.latencies) * 1e6 for part, used in parts.items()}


def show(medians: dict[str, dict[str, float]]) -> None:
    """Print the tables."""
    base = medians["floor: fork + exit + wait, C"]["p50"]
    heads = "".join(f"{head:>9}" for head in ("p50", "p90", "p99", "p99.9"))
    print(f"{'ms; closed loops, raw percentiles':44}{heads}{'per s':>8}{'p50/floor':>10}")
    for name, of in medians.items():
        if "p50" in of:
            figures = "".join(f"{of[figure]:9.3f}" for figure in ("p50", "p90", "p99", "p99.9"))
            rate = f"{of['per_s']:8.0f}" if "per_s" in of else " " * 8
            print(f"{name:44}{figures}{rate}{of['p50'] / base:10.1f}")
    print()
    for name, of in medians.items():
        if "p50" not in of:
            print(f"{name:44}" + "  ".join(f"{figure} {value:,.2f}" for figure, value in of.items()))
    floor = medians["floor: its CPU time"]["cpu_us"]
    for name, of in medians.items():
        if name.startswith("CPU us"):
            print(f"{name + ', / floor':44}{of['all'] / floor:.1f}")


def main() -> None:
    """Measure, print tables, write JSON."""
    parser = argparse.ArgumentParser(description="promptlog alone, measured")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of each load")
    parser.add_argument("--rounds", type=int, default=1, help="measure all so often, and show the medians")
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "out/bench.json", help="where to write")
    options = parser.parse_args()
    table = Table()
    with load.built("load.c", "floor.c") as tools:
        for number in range(options.rounds):
            say(f"round {number + 1} of {options.rounds}")
            measure(table, tools, options.seconds)
    medians = table.medians()
    show(medians)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    machine = {
        "machine": platform.machine(),
        "kernel": platform.release(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }
    report = {"machine": machine, "medians": medians, "rounds": table.rounds}
    options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
