"""Measures a good client beside one bad client: part of `make bench`, and a separate benchmark.

    python bench/bad_client.py [--rounds 3] [--seconds 30] [--found] [--only TEXT] [--json FILE]

For each attack (attacks.py) and each round, the benchmark starts a daemon with a new state folder. The good client is
load.c with an open loop: it runs a short stored program 200 times a second, and each latency counts from the time at
which the request was due. It is measured alone, and then beside the attacker, which is a separate process. Meanwhile a
third client (excess.py) measures how far runs exceed their limits. Figures are medians over the rounds, and for excess
the median of the maximum of each round. Run it as root. Otherwise attackers with another uid are omitted.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import sleep

import load
from caller import EXPECT, PROMPT, SAMPLE, Caller, frames, submitted
from excess import OWN_UID, excess
from load import Load
from table import Table, say

from bench.attacker import OTHER_UID, attacking
from bench.attacks import ATTACKS, FOUND, Attack
from promptlogctl.cli.spawn import module_command
from promptlogd.wire.messages import Run, Stats, StatsReply

RATE = 200
_CONNECTIONS = 16
_GRACE_S = 10.0
"""A request without a reply this long after the end of the load counts as not served."""
_BEGIN_S = 0.5
_REST_S = 60.0
"""Maximum time for a `stats` reply after the attacker has disconnected."""

P99_TIMES, P99_LEAST_MS = 10, 60
RESIDENT_MIB, WALL_MS, CPU_MS = 64, 100, 15
"""The targets."""

_TAKEOVER = Path(__file__).parents[1] / "tests/hostile/takeover.py"


class Daemon:
    """A daemon under attack, and the peak of its resident memory."""

    def __init__(self, process: subprocess.Popen[bytes], path: str, log: Path) -> None:
        self._pid = process.pid
        self._log = log
        self.path = path

    def forget_peak(self) -> float:
        """Return the current resident memory in MiB, and reset the peak (proc(5), clear_refs)."""
        Path(f"/proc/{self._pid}/clear_refs").write_text("5")
        return load.resident_kib(self._pid) / 1024

    def peak(self) -> float:
        """Return the peak of resident memory since `forget_peak`, in MiB."""
        status = Path(f"/proc/{self._pid}/status").read_text().splitlines()
        return int(next(line.split()[1] for line in status if line.startswith("VmHWM:"))) / 1024

    def faults(self) -> str:
        """Return the end of its log if the log has an internal error."""
        log = self._log.read_text("utf-8", "replace")
        return log[-2000:] if "Traceback" in log else ""


@contextmanager
def started(*, taken_over: bool, config: str = "") -> Iterator[Daemon]:
    """Run a daemon that accepts connections of other uids in root's group. `config`: further settings, as TOML."""
    command, environment = module_command("promptlogd")
    if taken_over:
        command = [sys.executable, str(_TAKEOVER)]
    with tempfile.TemporaryDirectory(prefix="promptlog-bench-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        (folder / "promptlog.toml").write_text(f'[server]\nsocket_mode = "0660"\n{config}')
        command += ["--config", f"{folder}/promptlog.toml", "--socket", f"{folder}/socket"]
        reading, writing = os.pipe()
        command += ["--state-dir", f"{folder}/state", "--exit-with-parent", "--ready-fd", str(writing)]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(command, env=environment, pass_fds=(writing,), stderr=log)
        os.close(writing)
        with process, open(reading, "rb") as ready:
            try:
                if ready.read() != b"ready\n":
                    raise RuntimeError(f"the daemon did not start: {(folder / 'log').read_text()}")
                yield Daemon(process, f"{folder}/socket", folder / "log")
            finally:
                process.terminate()


def measure(name: str, tools: Path, seconds: float, *, uid: int | None) -> dict[str, float]:
    """Return the measurements of one attack in one round."""
    with started(taken_over=ATTACKS[name].taken_over) as daemon:
        path = daemon.path
        request = frames([Run(id=1, hash=submitted(path, SAMPLE), prompt=PROMPT)])

        def good(seconds: float) -> Load:
            return load.run(
                tools, path, "prefix", request, expect=EXPECT, connections=_CONNECTIONS, seconds=seconds, rate=RATE,
                grace_s=_GRACE_S,
            )  # fmt: skip

        with attacking(name, path, uid=uid) as begin:
            Caller(path).ask(Run(id=1, source="return 1", engine="deno"))
            load.run(tools, path, "prefix", request, expect=EXPECT, connections=4, seconds=1)
            alone = good(max(5.0, seconds / 6))
            resident = daemon.forget_peak()
            begin()
            sleep(_BEGIN_S)
            with excess(path, uid=None if uid is None else OWN_UID) as limits:
                beside = good(seconds)
            grown = daemon.peak() - resident
        if faults := daemon.faults():
            print(f"{name}: the daemon failed:\n{faults}", file=sys.stderr)
        stats = _stats(path)
    figures = {"alone_p50": alone.ms(0.5), "alone_p99": alone.ms(0.99)}
    figures |= {"p50": beside.ms(0.5), "p99": beside.ms(0.99)}
    figures |= {"served": len(beside.latencies) - beside.wrong - beside.unanswered}
    figures |= {"refused": beside.wrong, "unanswered": beside.unanswered, "grown_mib": grown}
    figures |= {"wall_told_ms": _most(limits.wall_told_ms), "wall_seen_ms": _most(limits.wall_seen_ms)}
    figures |= {"cpu_ms": _most(limits.cpu_ms), "probes": len(limits.wall_told_ms) + len(limits.cpu_ms)}
    figures |= {"probes_other": len(limits.other), "turn_p99_ms": stats.turn_p99_ms, "turn_max_ms": stats.turn_max_ms}
    say(f"    the daemon's runs: {stats.runs}, errors: {stats.errors}")
    for other in sorted(set(limits.other)):
        say(f"    a run that should reach its limit, {limits.other.count(other)} times: {other}")
    return figures


def _stats(path: str) -> StatsReply:
    caller = Caller(path)
    caller.sock.settimeout(_REST_S)
    reply = caller.ask(Stats(id=1))
    assert isinstance(reply, StatsReply)
    return reply


def _most(excess: list[float]) -> float:
    """Return infinity if no run reached its limit, because that is not a success."""
    return max(excess, default=math.inf)


def beside_one_bad_client(
    tools: Path, seconds: float, rounds: int, *, attacks: dict[str, Attack] = ATTACKS, only: str = ""
) -> Table:
    """Measure the attacks whose row name contains this text."""
    table = Table()
    may_become_others = os.geteuid() == 0
    for number in range(rounds):
        for name, attack in attacks.items():
            uids = [None, OTHER_UID] if attack.from_other_uid and may_become_others else [None]
            for uid in uids:
                row = name if uid is None else f"{name}, another uid"
                if only not in row:
                    continue
                say(f"beside one bad client, round {number + 1} of {rounds}: {row}")
                try:
                    table.add(row, **measure(name, tools, seconds, uid=uid))
                except (OSError, RuntimeError) as error:
                    say(f"    not measured: {error}")
    return table


def p99_target(of: dict[str, float]) -> float:
    """Return the target for the good client's p99 during an attack, in ms."""
    return max(P99_TIMES * of["alone_p99"], P99_LEAST_MS)


def missed(of: dict[str, float]) -> list[str]:
    """Return the targets that were missed."""
    bounds = {
        "p99": of["p99"] <= p99_target(of),
        "memory": of["grown_mib"] <= RESIDENT_MIB,
        "wall": max(of["wall_told_ms"], of["wall_seen_ms"]) <= WALL_MS,
        "cpu": of["cpu_ms"] <= CPU_MS,
    }
    return [what for what, held in bounds.items() if not held]


def show_beside(medians: dict[str, dict[str, float]]) -> None:
    """Print the table."""
    print(
        f"\nbeside one bad client: {RATE}/s of a stored short program, ms; growth of the daemon's resident memory, MiB;"
    )
    print("the most that runs on Deno exceed their limits, ms: wall as told and as seen, CPU; turns of the loop, ms")
    heads = (
        f"{'alone p50':>10}{'p99':>7}{'p50':>9}{'p99':>9}{'target':>8}{'served':>8}{'refused':>8}{'none':>6}{'MiB':>7}"
        f"{'told':>8}{'seen':>8}{'CPU':>7}{'p99':>8}{'max':>8}  not reached"
    )
    print(f"{'attack':46}{heads}")
    for name, of in medians.items():
        print(
            f"{name:46}{of['alone_p50']:10.1f}{of['alone_p99']:7.1f}{of['p50']:9.1f}{of['p99']:9.1f}"
            f"{p99_target(of):8.0f}{of['served']:8.0f}{of['refused']:8.0f}{of['unanswered']:6.0f}"
            f"{of['grown_mib']:7.1f}{of['wall_told_ms']:8.1f}{of['wall_seen_ms']:8.1f}{of['cpu_ms']:7.1f}"
            f"{of['turn_p99_ms']:8.2f}{of['turn_max_ms']:8.1f}  {', '.join(missed(of)) or '-'}"
        )
    held = sum(not missed(of) for of in medians.values())
    print(f"all bounds reached beside {held} of {len(medians)} attacks")


def main() -> None:
    """Measure, print the table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0, help="length of each load beside an attack")
    parser.add_argument("--rounds", type=int, default=3, help="measure all so often, and show the medians")
    parser.add_argument("--found", action="store_true", help="only the attacks that once did harm")
    parser.add_argument("--only", default="", help="only attacks whose row has this text in its name")
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "out/bad_client.json")
    options = parser.parse_args()
    with load.built("load.c") as tools:
        table = beside_one_bad_client(
            tools, options.seconds, options.rounds, attacks=FOUND if options.found else ATTACKS, only=options.only
        )
    medians = table.medians()
    show_beside(medians)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps({"medians": medians, "rounds": table.rounds}, indent=2) + "\n")


if __name__ == "__main__":
    main()
