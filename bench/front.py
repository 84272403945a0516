"""Compares the HTTP server with the socket: the cost of HTTP for a run, and one user's loops beside another's runs.

    python bench/front.py [--rounds 3] [--seconds 3] [--other CHECKOUT]

load.c sends the same load to one daemon, in turn over the socket and through one process of `promptlogctl http`. Then
four users with short runs are measured alone, and beside four users with endless loops. Each user is one HTTP
connection. Figures are medians over the rounds.

With --other, only the HTTP server is measured, in turn with that of another checkout. Both use the daemon of this one.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import load
from caller import EXPECT, PROMPT, SAMPLE, frames, submitted
from table import Table, say

from promptlogctl.cli.spawn import private_daemon
from promptlogd.wire.messages import Run

_USERS = 4
_ENDLESS = "for (;;) {}"


@contextmanager
def front(socket: Path, checkout: Path | None = None) -> Iterator[tuple[int, str]]:
    """Context manager: the HTTP server of a checkout, by default of this one; yields its pid and port."""
    python = sys.executable if checkout is None else str(checkout / ".venv/bin/python")
    command = [python, "-m", "promptlogctl", "http", "--listen", "127.0.0.1:0"]
    with tempfile.TemporaryFile("w+") as log:
        environment = {**os.environ, "PROMPTLOG_SOCKET": str(socket)}
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, cwd=checkout)
        assert process.stderr is not None
        port = re.search(r":(\d+)/", process.stderr.readline())
        assert port, "the server did not start"
        try:
            yield process.pid, port[1]
        finally:
            process.terminate()
            log.write(process.communicate(timeout=20)[1])


def get(hash: str) -> bytes:
    """Return the request for a run."""
    return f"GET /run/{hash}?prompt={PROMPT.replace(' ', '%20')} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


def measure(tools: Path, seconds: float, table: Table) -> None:
    """Measure one round."""
    with private_daemon(None) as socket, front(socket) as (pid, port):
        path = str(socket)
        hash, loop = submitted(path, SAMPLE), submitted(path, _ENDLESS)
        over = {
            "socket": (path, "prefix", frames([Run(id=1, hash=hash, prompt=PROMPT)])),
            "HTTP": (port, "http", [get(hash)]),
        }
        for connections in (1, 8):
            for name, (target, framing, requests) in over.items():
                say(f"{name}, {connections} clients")
                load.run(tools, target, framing, requests, expect=EXPECT, connections=connections, seconds=0.5)
                before = load.cpu_s(pid)
                measured = load.run(
                    tools, target, framing, requests, expect=EXPECT, connections=connections, seconds=seconds
                )
                table.add_load(f"{name}, {connections} client{'s' * (connections > 1)}", measured)
                if name == "HTTP":
                    used = (load.cpu_s(pid) - before) / len(measured.latencies)
                    table.add(f"CPU of the front, {connections} clients", us=used * 1e6)
        users = {"expect": EXPECT, "connections": _USERS}
        alone = load.run(tools, port, "http", [get(hash)], seconds=seconds, **users)  # type: ignore[arg-type]
        table.add_load(f"{_USERS} users with short runs", alone)
        say("users with loops")
        bad = threading.Thread(
            target=load.run,
            args=(tools, port, "http", [get(loop)]),
            kwargs={"expect": "limit", "connections": _USERS, "seconds": seconds + 1, "grace_s": 2.0},
        )
        bad.start()
        with load.built("load.c") as others:
            beside = load.run(others, port, "http", [get(hash)], seconds=seconds, **users)  # type: ignore[arg-type]
        bad.join()
        table.add_load(f"{_USERS} users with short runs, beside {_USERS} with loops", beside)
        table.add("beside loops / alone", runs=beside.rate / alone.rate)


def compare(tools: Path, rounds: int, seconds: float, checkout: Path) -> None:
    """Print the CPU time of a request in this HTTP server and in that of another checkout."""
    used: dict[tuple[str, int], list[float]] = {}
    with private_daemon(None) as socket, front(socket) as this, front(socket, checkout.absolute()) as other:
        request = [get(submitted(str(socket), SAMPLE))]
        servers = [("this", this), ("other", other)]
        for _ in range(rounds):
            for connections in (1, 8):
                for name, (pid, port) in servers:
                    load.run(tools, port, "http", request, expect=EXPECT, connections=connections, seconds=0.3)
                    before = load.cpu_s(pid)
                    done = load.run(
                        tools, port, "http", request, expect=EXPECT, connections=connections, seconds=seconds
                    )
                    us = (load.cpu_s(pid) - before) / len(done.latencies) * 1e6
                    used.setdefault((name, connections), []).append(us)
            servers.reverse()
    print(f"{'CPU of the HTTP server, us a request':40}{'other':>9}{'this':>9}{'ratio':>9}")
    for connections in (1, 8):
        old, new = used["other", connections], used["this", connections]
        ratio = median([mine / its for mine, its in zip(new, old, strict=True)])
        name = f"{connections} client{'s' * (connections > 1)}"
        print(f"{name:40}{median(old):9.1f}{median(new):9.1f}{ratio:9.3f}")


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--other", type=Path, metavar="CHECKOUT")
    options = parser.parse_args()
    table = Table()
    with load.built("load.c") as tools:
        if options.other is not None:
            compare(tools, options.rounds, options.seconds, options.other)
            return
        for _ in range(options.rounds):
            measure(tools, options.seconds, table)
    medians = table.medians()
    print(f"{'closed loops; ms':44}{'p50':>9}{'p99':>9}{'runs/s':>9}")
    for name, of in medians.items():
        if "p50" in of:
            print(f"{name:44}{of['p50']:9.3f}{of['p99']:9.3f}{of['per_s']:9.0f}")
    print()
    added = medians["HTTP, 1 client"]["p50"] - medians["socket, 1 client"]["p50"]
    print(f"HTTP adds to the p50 of one client: {added:.3f} ms")
    ratio = medians["HTTP, 8 clients"]["per_s"] / medians["socket, 8 clients"]["per_s"]
    print(f"runs/s with 8 clients, HTTP / socket: {ratio:.2f}")
    for name, of in medians.items():
        if "p50" not in of:
            print(f"{name}: " + ", ".join(f"{figure} {value:.2f}" for figure, value in of.items()))


if __name__ == "__main__":
    main()
