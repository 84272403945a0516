"""Measures promptlog alone: `make bench`.

    python bench/run_bench.py [--seconds 3] [--rounds 1] [--bad-client-seconds 30] [--json FILE]

Unless a row says otherwise, the loads are closed loops: a client sends its next request when it has received a reply.
Percentiles are computed from all samples. Compare ratios only: absolute times depend on the machine and on its load.
The same run measures lower bounds: fork + exit + wait of a small C process behind a socketpair, the same for a Python
process, and a cell without the daemon. With several rounds, each figure is the median over the rounds. bad_client.py
measures the last section, a good client beside a bad one. `--bad-client-seconds 0` omits it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import load
import msgspec
import trio
from bad_client import beside_one_bad_client, show_beside
from beside_deno import on_deno
from caller import EXPECT, PROMPT, SAMPLE, Caller, bombs, frames, new_programs, submitted
from floors import floors, one_cell
from load import Load
from pairs import cost_of_operation
from table import Table, say, show

from promptlogctl.cli.spawn import private_daemon
from promptlogd.wire.messages import Finished, LimitsAsked, Request, Run
from sandbox.outcome import CpuLimit

# About 20 ms on QuickJS. `heavy` adjusts the length of the loop to this machine.
HEAVY = (
    "let sum = 0; for (let i = 0; i < {count}; i++) sum = (sum + i * i) % 1000003; const result = 'dlrow olleh' + sum"
)


def heavy(path: str) -> str:
    """Return a program that takes about 20 ms of CPU time on this machine."""
    count = 10_000
    caller = Caller(path)
    while True:
        reply = caller.ask(Run(id=1, source=HEAVY.format(count=count), limits=LimitsAsked(cpu_ms=1000)))
        assert isinstance(reply, Finished)
        if reply.usage.cpu_ms >= 10:
            return HEAVY.format(count=int(count * 20 / reply.usage.cpu_ms))
        count *= 2


Account = tuple[float, dict[int, tuple[float, float]]]
"""CPU seconds of the daemon, and of each zygote and its children."""


class Daemon:
    """A private daemon, and the CPU time of its processes."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        (self.pid,) = (pid for pid in load.children(os.getpid()) if b"promptlogd" in _command(pid))

    def cpu(self) -> Account:
        """Return the CPU time used so far."""
        zygotes = [zygote for nsjail in load.children(self.pid) for zygote in load.children(nsjail)]
        return load.cpu_s(self.pid), {pid: (load.cpu_s(pid), load.waited_cpu_s(pid)) for pid in zygotes}


def _command(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


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
        table.add_samples(f"one cell without the daemon, {how}", trio.run(one_cell, pause_s, 1000))
    for clients in (1, 8):
        for name, ratio in cost_of_operation(tools, clients, seconds).items():
            table.add(f"{name} with journal and metrics / without, {clients} client{'s' * (clients > 1)}", ratio=ratio)
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
    objects = "const made = []; for (let i = 0; i < 3000; i++) made.push({i}); return made.length + 'dlrow olleh'"
    closed("run, a program that makes 3,000 objects", [Run(id=1, hash=submitted(path, objects))], 1)
    closed("run, a prompt of 1 MB", [
        Run(id=1, hash=submitted(path, "return prompt.length + 'dlrow olleh'"), prompt="x" * 1_000_000)
    ], 1)  # fmt: skip
    closed("run, a result of 1 MB", [
        Run(id=1, hash=submitted(path, "return 'dlrow olleh' + 'x'.repeat(1000000)"))
    ], 1)  # fmt: skip
    closed("run, 20 ms of work, 1 client", [Run(id=1, hash=submitted(path, heavy(path)))], 1)
    closed("run, 1 client, isolation=jail", [msgspec.structs.replace(sample[0], isolation="jail")], 1)
    closed("run, 1 client, JSON lines", sample, 1, encoding="json")
    _over_the_cpu_limit(table, path)
    alone = closed("run, 1 client, again", sample, 1)
    with bombs(path):
        beside = closed("run, 1 client beside 4 that send bombs", sample, 1)
    table.add("p99 beside bombs / p99 alone", ratio=beside.ms(0.99) / alone.ms(0.99))
    say("1,000 stored programs")
    before = load.resident_kib(daemon.pid)
    for number in range(1000):
        submitted(path, f"{SAMPLE}\n// stored {number}")
    table.add("memory for each of 1,000 stored programs", kib=(load.resident_kib(daemon.pid) - before) / 1000)


def _over_the_cpu_limit(table: Table, path: str) -> None:
    """Measure by how much an endless run exceeds its CPU limit, including the end of its process."""
    say("over the CPU limit")
    caller = Caller(path)
    for name, first in (
        ("an endless loop", ""),
        ("one with 40 MiB", "const a = new Uint8Array(40 << 20).fill(1);"),
        ("one with 100 MiB", "const a = new Uint8Array(100 << 20).fill(1);"),
    ):
        over = []
        for _ in range(30):
            reply = caller.ask(Run(id=1, source=f"{first} for (;;);"), outcome="cpu_limit")
            assert isinstance(reply, Finished)
            assert isinstance(reply.outcome, CpuLimit)
            over.append(reply.usage.cpu_ms - reply.outcome.limit)
        table.add(f"CPU over the limit of 50 ms: {name}", most_ms=max(over), median_ms=statistics.median(over))


def _cpu_us(before: Account, after: Account, done: Load) -> dict[str, float] | None:
    """Return the CPU time of a run by part; None if a cell was replaced, because its CPU time is unknown then."""
    if after[1].keys() != before[1].keys():
        return None
    zygotes, children = (sum(after[1][pid][at] - before[1][pid][at] for pid in before[1]) for at in (0, 1))
    parts = {"daemon": after[0] - before[0], "zygotes": zygotes, "children": children, "client": done.own_cpu_s}
    return {part: used / len(done.latencies) * 1e6 for part, used in parts.items()}


def main() -> None:
    """Measure, print tables, write JSON."""
    parser = argparse.ArgumentParser(description="promptlog alone, measured")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of each load")
    parser.add_argument("--rounds", type=int, default=1, help="measure all so often, and show the medians")
    parser.add_argument("--bad-client-seconds", type=float, default=30.0, help="length of each load beside an attack")
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "out/bench.json", help="where to write")
    options = parser.parse_args()
    table = Table()
    with load.built("load.c", "floor.c") as tools:
        for number in range(options.rounds):
            say(f"round {number + 1} of {options.rounds}")
            measure(table, tools, options.seconds)
        beside = Table()
        if options.bad_client_seconds > 0:
            beside = beside_one_bad_client(tools, options.bad_client_seconds, options.rounds)
    medians = table.medians()
    show(medians)
    if beside.rounds:
        show_beside(beside.medians())
    options.json.parent.mkdir(parents=True, exist_ok=True)
    machine = {
        "machine": platform.machine(),
        "kernel": platform.release(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
    }
    report = {"machine": machine, "medians": medians, "rounds": table.rounds}
    report["beside one bad client"] = {"medians": beside.medians(), "rounds": beside.rounds}
    options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
