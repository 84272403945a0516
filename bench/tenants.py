"""Measures how much a tenant that floods the daemon raises the p99 of another tenant.

    python bench/tenants.py [--rounds 3] [--seconds 10] [--rate 200] [--json FILE]

Both are tenants of the same front, and each is a separate process. The good tenant is load.c with an open loop: it runs
a short stored program --rate times a second. It is measured alone, and then beside the flood: 8 connections, each with
32 requests in flight at all times. These are short runs, endless loops and results of 900 KB. Each round measures this
in a new daemon, once without quotas and once with the quota below. Figures are medians over the rounds. The target with
the quota is a p99 of at most twice that of the good tenant alone.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import sleep

import load
from bad_client import started
from caller import BOMBS, EXPECT, PROMPT, SAMPLE, Caller, frames, submitted
from table import Table, say

from bench.attack_steps import Target, again
from promptlogd.wire.messages import Run, Stats, StatsReply

MOST_TIMES = 2.0
_CONNECTIONS = 16
_GRACE_S = 10.0
_WARM_S = 1.0
_BEGIN_S = 0.5

_QUOTAS = """
[quotas.tenant]
runs_at_once = 1
queued = 8
runs_per_s = 50
cpu_ms_per_s = 100
cpu_burst_ms = 200

[[quotas.rules]]
tenants = ["good"]
"""


def _flood(path: str) -> None:
    sources = (BOMBS[0], BOMBS[3], "return 1", "return prompt.length")
    requests = frames([Run(id=id, source=sources[id % len(sources)], tenant="flood") for id in range(1024)])
    again(lambda: requests, connections=8, pipelined=32)(Target(path=path, programs=0))()


@contextmanager
def flooded(path: str) -> Iterator[None]:
    """Another tenant floods the daemon during the block."""
    process = multiprocessing.Process(target=_flood, args=(path,), daemon=True)
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()


def measure(tools: Path, seconds: float, rate: float, config: str) -> dict[str, float]:
    """Return the good tenant's figures, alone and beside the flood."""
    with started(taken_over=False, config=config) as daemon:
        path = daemon.path
        request = frames([Run(id=1, hash=submitted(path, SAMPLE), prompt=PROMPT, tenant="good")])

        def good(seconds: float) -> load.Load:
            return load.run(
                tools, path, "prefix", request, expect=EXPECT, connections=_CONNECTIONS, seconds=seconds, rate=rate,
                grace_s=_GRACE_S,
            )  # fmt: skip

        good(_WARM_S)
        alone = good(seconds)
        with flooded(path):
            sleep(_BEGIN_S)
            beside = good(seconds)
        stats = Caller(path).ask(Stats(id=1))
        assert isinstance(stats, StatsReply)
    say(f"    the daemon's runs: {stats.runs}, errors: {stats.errors}")
    figures = {"alone_p50": alone.ms(0.5), "alone_p99": alone.ms(0.99), "p50": beside.ms(0.5), "p99": beside.ms(0.99)}
    figures |= {"times": beside.ms(0.99) / alone.ms(0.99), "wrong": beside.wrong, "unanswered": beside.unanswered}
    return figures


def main() -> None:
    """Measure, print the table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each load")
    parser.add_argument("--rate", type=float, default=200.0, help="requests of the good tenant per second")
    parser.add_argument("--rounds", type=int, default=3, help="measure all so often, and show the medians")
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "out/tenants.json")
    options = parser.parse_args()
    table = Table()
    with load.built("load.c") as tools:
        for number in range(options.rounds):
            for name, config in (("no quotas", ""), ("quotas", _QUOTAS)):
                say(f"one tenant beside another, round {number + 1} of {options.rounds}: {name}")
                table.add(name, **measure(tools, options.seconds, options.rate, config))
    medians = table.medians()
    print(f"\none tenant beside another's flood: {options.rate:g}/s of a stored short program, ms")
    print(f"{'':12}{'alone p50':>10}{'p99':>8}{'p50':>8}{'p99':>8}{'times':>8}{'refused':>9}{'none':>6}")
    for name, of in medians.items():
        print(
            f"{name:12}{of['alone_p50']:10.2f}{of['alone_p99']:8.2f}{of['p50']:8.2f}{of['p99']:8.2f}"
            f"{of['times']:8.1f}{of['wrong']:9.0f}{of['unanswered']:6.0f}"
        )
    is_reached = medians["quotas"]["times"] <= MOST_TIMES
    print(f"with quotas at most {MOST_TIMES:g} times: {'reached' if is_reached else 'not reached'}")
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps({"medians": medians, "rounds": table.rounds}, indent=2) + "\n")


if __name__ == "__main__":
    main()
