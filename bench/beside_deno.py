"""Compares the engine Deno with a bare `deno run` of the same program."""

from __future__ import annotations

import statistics
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import load
from caller import EXPECT, PROMPT, SAMPLE, Caller, bombs, frames, submitted
from load import percentile
from table import Table, say

from promptlogd.wire.messages import Finished, LimitsAsked, Run
from sandbox.engines.deno.host.root import deno_executable

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


def bare_deno(seconds: float, at_once: int) -> tuple[list[float], float]:
    """Run the sample with bare `deno run`, this many at once. Returns sorted seconds, and runs/s."""
    with tempfile.TemporaryDirectory(prefix="promptlog-bench-") as folder:
        program = Path(folder) / "program.js"
        program.write_text(f"const prompt = Deno.args[0];\n{SAMPLE}\nconsole.log(JSON.stringify(result));\n")
        command = [deno_executable(), "run", "--no-config", "--no-remote", "--no-prompt", program, PROMPT]
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
    """Measure both, and print the table."""
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
