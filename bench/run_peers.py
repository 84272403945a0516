"""Compares promptlog with its alternatives, under the same load in the same run: `make bench-peers`.

    python bench/run_peers.py [--scratch FOLDER] [--seconds 3] [--rounds 1] [--only NAME ...] [--json FILE]

The peers are installed from npm and PyPI into the scratch folder (package.json, and the package deno). Node.js must be
installed. Only one server runs at a time. The same load generator (load.c) measures all of them, with closed loops and
with an open loop at 500 requests/s. Percentiles are computed from all samples. autocannon also measures each peer's
runs/s with 8 clients.

  promptlog              a jailed process for each run
  promptlog on Deno      the same, with V8
  floor: a durable file  write a file of the program's size, fsync it, rename it, fsync its folder
  workerd get            one isolate for all runs of a program: a program's globals survive
  workerd load           a fresh isolate for each run
  isolated-vm isolate    a fresh isolate for each run, in the server's process
  isolated-vm context    a fresh context for each run, in one isolate
  quickjs-emscripten     a fresh runtime for each run, in the server's process (WebAssembly)
  run (npm)              a fresh context for each run, in a worker thread of the server's process (WebAssembly)
  quickjs-rs             a fresh runtime for each run, in the server's process (Python, WebAssembly)
  deno run               a fresh process for each run, no server: `deno run --no-config`
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import load
from caller import EXPECT, PROMPT, SAMPLE, frames, new_programs, submitted
from floors import durable_file
from load import Load
from servers import Promptlog, Server, set_up, tried
from table import Table, say

from promptlogctl.cli.spawn import private_daemon
from promptlogctl.client import Client
from promptlogd.wire.messages import Run

PROGRAMS = 200


def server_figures(table: Table, tools: Path, seconds: float, server: Server, autocannon: Path) -> None:
    """Measure a peer that runs as a server."""
    name = server.name
    with server.up():
        sample = [server.submit(SAMPLE)]
        server.loaded(tools, sample, connections=2, seconds=1)
        say(f"{name}: one program")
        figures(table, name, lambda **options: server.loaded(tools, sample, seconds=seconds, **options))
        url = f"http://127.0.0.1:{server.port}{server.path(sample[0])}"
        command = ["node", str(autocannon), "-j", "-c", "8", "-d", str(max(1, round(seconds))), url]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        table.add(f"{name}|second generator", per_s=json.loads(printed)["requests"]["average"])
    with server.up():
        say(f"{name}: {PROGRAMS} programs")
        before = load.resident_kib(server.pid)
        many = [server.submit(f"{SAMPLE}\n// program {number}") for number in range(PROGRAMS)]
        table.add_load(f"{name}|8 clients, 200 programs", server.loaded(tools, many, connections=8, seconds=seconds))
        table.add(f"{name}|memory", kib=(load.resident_kib(server.pid) - before) / PROGRAMS)
        table.add_samples(f"{name}|new program", new_http_programs(server, 100))


def new_http_programs(server: Server, count: int) -> list[float]:
    """Return the seconds from submit to the end of the first run, on one connection."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.connect()
    connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    samples = []
    for number in range(count):
        began = time.perf_counter()
        connection.request("POST", "/submit", server.body(f"{SAMPLE}\n// new {number} {began}"), server.headers)
        hash = server.hash_of(connection.getresponse().read().decode())
        connection.request("GET", server.path(hash))
        if EXPECT not in connection.getresponse().read().decode():
            sys.exit(f"{server.name}: a wrong answer")
        samples.append(time.perf_counter() - began)
    connection.close()
    return sorted(samples)


def figures(table: Table, name: str, loaded: Callable[..., Load]) -> None:
    """The loads on one program."""
    table.add_load(f"{name}|1 client", loaded(connections=1))
    table.add_load(f"{name}|8 clients", loaded(connections=8))
    try:
        table.add_load(f"{name}|open loop, 500/s", loaded(connections=64, rate=500))
    except (RuntimeError, SystemExit) as error:  # it refuses some, or is too slow
        print(f"    {name}, open loop: {error}", file=sys.stderr)


def promptlog_figures(table: Table, tools: Path, seconds: float) -> None:
    """Measure promptlog."""
    name = "promptlog"
    with private_daemon(None) as socket_path:
        path = str(socket_path)

        def loaded(hashes: Sequence[str], **options: float) -> Load:
            requests = frames([Run(id=1, hash=hash, prompt=PROMPT) for hash in hashes])
            return load.run(tools, path, "prefix", requests, expect=EXPECT, **options)  # type: ignore[arg-type]

        sample = [submitted(path, SAMPLE)]
        loaded(sample, connections=4, seconds=1)
        say(f"{name}: one program")
        figures(table, name, lambda **options: loaded(sample, seconds=seconds, **options))
        table.add(f"{name}|second generator", per_s=_by_threads(path, sample[0], 8, seconds))
        say(f"{name}: {PROGRAMS} programs")
        (pid,) = (
            pid for pid in load.children(os.getpid()) if b"promptlogd" in Path(f"/proc/{pid}/cmdline").read_bytes()
        )
        before = load.resident_kib(pid)
        many = [submitted(path, f"{SAMPLE}\n// program {number}") for number in range(PROGRAMS)]
        table.add_load(f"{name}|8 clients, 200 programs", loaded(many, connections=8, seconds=seconds))
        table.add(f"{name}|memory", kib=(load.resident_kib(pid) - before) / PROGRAMS)
        table.add_samples(f"{name}|new program", new_programs(path, 100))
    less_the_disk(table, name)
    with (
        tempfile.TemporaryDirectory(prefix="promptlog-peers-", dir="/dev/shm") as memory,  # fsync costs nothing there
        private_daemon(Path(memory) / "state") as socket_path,
    ):
        table.add_samples(f"{name}, state on a tmpfs|new program", new_programs(str(socket_path), 100))


def less_the_disk(table: Table, name: str) -> None:
    """Measure new programs and durable files in turn, on the same disk, and subtract the median of the files.

    In turn, because the time of an fsync depends on what else the disk does, and on the pause before it.
    """
    floor: list[float] = []
    with (
        tempfile.TemporaryDirectory(prefix="promptlog-peers-") as disk,
        private_daemon(Path(disk) / "state") as socket_path,
    ):
        files = Path(disk) / "files"
        files.mkdir()
        samples = new_programs(
            str(socket_path),
            200,
            lambda number: floor.append(durable_file(files, str(number), SAMPLE.encode())),
        )
    table.add_samples("floor: a durable file|new program", sorted(floor))
    table.add_samples(f"{name} less this floor|new program", [sample - statistics.median(floor) for sample in samples])


def promptlog_on_deno_figures(table: Table, tools: Path, seconds: float) -> None:
    """Measure promptlog's engine Deno."""
    with private_daemon(None) as socket_path:
        path = str(socket_path)
        requests = frames([Run(id=1, hash=submitted(path, SAMPLE), prompt=PROMPT, engine="deno")])
        load.run(tools, path, "prefix", requests, expect=EXPECT, connections=4, seconds=1)
        for clients, name in ((1, "1 client"), (8, "8 clients")):
            say(f"promptlog on Deno: {name}")
            done = load.run(tools, path, "prefix", requests, expect=EXPECT, connections=clients, seconds=seconds)
            table.add_load(f"promptlog on Deno|{name}", done)


def _by_threads(path: str, hash: str, clients: int, seconds: float) -> float:
    """Return runs/s of promptlog's client library, pipelined on one connection: a second load generator."""
    done = 0
    with Client(Path(path)) as client:
        end = time.perf_counter() + seconds
        going = [client.start(hash, PROMPT) for _ in range(clients)]
        while going:
            assert EXPECT in str(going.pop(0).result().value)
            done += 1
            if time.perf_counter() < end:
                going.append(client.start(hash, PROMPT))
    return done / seconds


def deno_figures(table: Table, seconds: float, deno: Path, folder: Path) -> None:
    """Measure a bare `deno run` for each run, with one thread for each client."""
    program = folder / "program.js"
    program.write_text(f"const prompt = Deno.args[0];\n{SAMPLE}\nconsole.log(JSON.stringify(result));\n")
    command = [str(deno), "run", "--no-config", "--no-remote", "--no-prompt", str(program), PROMPT]
    environment = {**os.environ, "DENO_NO_UPDATE_CHECK": "1", "DENO_DIR": str(folder / "cache")}

    def client(samples: list[float], end: float) -> None:
        while (began := time.perf_counter()) < end:
            printed = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, check=True)
            if EXPECT not in printed.stdout:
                raise RuntimeError(printed.stderr)
            samples.append(time.perf_counter() - began)

    client([], time.perf_counter() + 1)
    for clients, name in ((1, "1 client"), (8, "8 clients")):
        say(f"deno run: {name}")
        samples: list[float] = []
        began = time.perf_counter()
        threads = [threading.Thread(target=client, args=(samples, began + seconds)) for _ in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        table.add_samples(f"deno run|{name}", sorted(samples), len(samples) / (time.perf_counter() - began))


def show(medians: dict[str, dict[str, float]], trials: dict[str, dict[str, str]]) -> None:
    """Print the tables."""
    names = list(dict.fromkeys(key.partition("|")[0] for key in medians))
    cases = ("1 client", "8 clients", "8 clients, 200 programs", "open loop, 500/s", "new program")
    for case in cases:
        loop = "one after another" if case == "new program" else "open loop" if "open" in case else "closed loop"
        print(f"\n{case} ({loop}, raw percentiles, ms); promptlog / it")
        ours = medians.get(f"promptlog|{case}", {})
        for name in names:
            of = medians.get(f"{name}|{case}")
            if of is None:
                continue
            row = "".join(f"{figure:>8} {of[figure]:9.3f}" for figure in ("p50", "p99", "p99.9"))
            row += f"{of['per_s']:8.0f}/s" if "per_s" in of else ""
            ratios = "".join(
                f"  {figure} {ours[figure] / of[figure]:.2f}"
                for figure in ("p50", "p99", "p99.9", "per_s")
                if figure in of and figure in ours
            )
            print(f"{name:22}{row}   |{ratios}")
    less = medians.get("promptlog less this floor|new program", {})
    print("\nnew program, p50: promptlog less the disk's floor / it")
    for name in names:
        if less and not name.startswith(("promptlog", "floor")) and f"{name}|new program" in medians:
            print(f"{name:22}{less['p50'] / medians[f'{name}|new program']['p50']:8.2f}")
    print("\nruns/s with 8 clients by a second generator (autocannon; promptlog: its client library) / by load.c")
    for name in names:
        second = medians.get(f"{name}|second generator")
        if second is not None:
            print(f"{name:22}{second['per_s']:8.0f}/s  {second['per_s'] / medians[f'{name}|8 clients']['per_s']:.2f}")
    print(f"\nresident memory for each of {PROGRAMS} programs that were run, KiB")
    for name in names:
        if f"{name}|memory" in medians:
            print(f"{name:22}{medians[f'{name}|memory']['kib']:10.1f}")
    for name, found in trials.items():
        print(f"\n{name}, tried:")
        for what, came in found.items():
            print(f"    {what}: {came}")


def main() -> None:
    """Set up, measure, print, write JSON."""
    parser = argparse.ArgumentParser(description="promptlog beside its peers, measured")
    parser.add_argument("--scratch", type=Path, help="where the peers are installed; kept (default: a temporary one)")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of each load")
    parser.add_argument("--rounds", type=int, default=1, help="measure all so often, and show the medians")
    parser.add_argument("--only", nargs="*", help="names of peers")
    parser.add_argument("--no-trials", action="store_true", help="leave out what peers may not survive")
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "out/peers.json", help="where to write")
    options = parser.parse_args()
    table = Table()
    with tempfile.TemporaryDirectory(prefix="promptlog-peers-") as temporary, load.built("load.c") as tools:
        scratch = (options.scratch or Path(temporary)).resolve()
        servers, deno = set_up(scratch)
        chosen = [server for server in servers if not options.only or server.name in options.only]
        autocannon = scratch / "node_modules/autocannon/autocannon.js"
        for number in range(options.rounds):
            say(f"round {number + 1} of {options.rounds}")
            promptlog_figures(table, tools, options.seconds)
            for server in chosen:
                server_figures(table, tools, options.seconds, server, autocannon)
            if not options.only or "deno run" in options.only:
                deno_figures(table, options.seconds, deno, scratch)
                promptlog_on_deno_figures(table, tools, options.seconds)
        trials = {} if options.no_trials else {server.name: tried(server) for server in [Promptlog(), *chosen]}
    medians = table.medians()
    show(medians, trials)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    report = {"cores": len(os.sched_getaffinity(0)), "medians": medians, "rounds": table.rounds, "tried": trials}
    options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
