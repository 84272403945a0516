"""Compares the HTTP server with the socket: the cost of HTTP for a run, and one user's loops beside another's runs.

    python bench/front.py [--rounds 3] [--seconds 3] [--floor | --other CHECKOUT]

load.c sends the same load to one daemon, in turn over the socket and through one process of `promptlogctl http`. Then
four users with short runs are measured alone, and beside four users with endless loops. Each user is one HTTP
connection. Figures are medians over the rounds.

With --floor, the HTTP server is measured in turn with bare_front.py: the same stack without checks, limits and headers.
With --other, it is measured in turn with that of another checkout. Both servers use the daemon of this checkout. Ratios
are medians of the ratios of each round.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from statistics import median

import load
from caller import EXPECT, PROMPT, SAMPLE, frames, submitted
from table import Table, say

from promptlogctl.cli.spawn import private_daemon
from promptlogd.wire.messages import Run

_USERS = 4
_ENDLESS = "for (;;) {}"

_Start = Callable[[Path], AbstractContextManager[tuple[int, str]]]
"""Starts an HTTP server for a daemon's socket; yields its pid and port."""


@contextmanager
def front(socket: Path, checkout: Path | None = None) -> Iterator[tuple[int, str]]:
    """Context manager: the HTTP server of a checkout, by default of this one; yields its pid and port."""
    python = sys.executable if checkout is None else str(checkout / ".venv/bin/python")
    with _serving([python, "-m", "promptlogctl", "http", "--listen", "127.0.0.1:0"], socket, checkout) as served:
        yield served


@contextmanager
def bare_front(socket: Path) -> Iterator[tuple[int, str]]:
    """Context manager: the floor of the HTTP server; yields its pid and port."""
    with _serving([sys.executable, str(load.HERE / "bare_front.py"), str(socket)], socket) as served:
        yield served


@contextmanager
def _serving(command: Sequence[str], socket: Path, folder: Path | None = None) -> Iterator[tuple[int, str]]:
    with tempfile.TemporaryFile("w+") as log:
        environment = {**os.environ, "PROMPTLOG_SOCKET": str(socket)}
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, cwd=folder)
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


def compare(tools: Path, rounds: int, seconds: float, name: str, start: _Start) -> None:
    """Print the cost of HTTP in this server and in another one, both over one daemon."""
    figures: dict[str, dict[str, list[float]]] = {}
    with private_daemon(None) as socket, front(socket) as this, start(socket) as other:
        path = str(socket)
        hash = submitted(path, SAMPLE)
        request = [get(hash)]
        servers = [("this", this), (name, other)]
        for _ in range(rounds):
            say("socket")
            run = frames([Run(id=1, hash=hash, prompt=PROMPT)])
            over_socket = load.run(tools, path, "prefix", run, expect=EXPECT, seconds=seconds)
            for connections in (1, 8):
                clients = f"{connections} client{'s' * (connections > 1)}"
                for which, (pid, port) in servers:
                    say(f"{which}, {clients}")
                    load.run(tools, port, "http", request, expect=EXPECT, connections=connections, seconds=0.3)
                    before = load.cpu_s(pid)
                    done = load.run(
                        tools, port, "http", request, expect=EXPECT, connections=connections, seconds=seconds
                    )
                    assert not done.wrong, f"{which}: {done.wrong} wrong replies"
                    found = {f"CPU of a request, us, {clients}": (load.cpu_s(pid) - before) / len(done.latencies) * 1e6}
                    if connections == 1:
                        found["HTTP adds to the p50, ms, 1 client"] = done.ms(0.5) - over_socket.ms(0.5)
                    else:
                        found[f"runs/s, {clients}"] = done.rate
                    for figure, value in found.items():
                        figures.setdefault(figure, {}).setdefault(which, []).append(value)
            servers.reverse()
    print(f"{f'HTTP server, medians of {rounds} rounds':40}{name:>9}{'this':>9}{'ratio':>9}")
    for figure, of in figures.items():
        ratio = median([mine / its for mine, its in zip(of["this"], of[name], strict=True)])
        print(f"{figure:40}{median(of[name]):9.3f}{median(of['this']):9.3f}{ratio:9.3f}")


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    pairs = parser.add_mutually_exclusive_group()
    pairs.add_argument("--floor", action="store_true")
    pairs.add_argument("--other", type=Path, metavar="CHECKOUT")
    options = parser.parse_args()
    table = Table()
    with load.built("load.c") as tools:
        if options.floor:
            compare(tools, options.rounds, options.seconds, "floor", bare_front)
            return
        if options.other is not None:
            checkout = options.other.absolute()
            compare(tools, options.rounds, options.seconds, "other", lambda socket: front(socket, checkout))
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
