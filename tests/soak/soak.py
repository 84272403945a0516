"""Mixed valid and hostile load on a daemon, with random kills and attacks. Prints figures at the end.

    python -m tests.soak.soak [--seconds 600] [--seed N]

It checks that:

- each request gets exactly one final reply,
- valid runs whose processes were not killed give the right value,
- at the end, the daemon has as many descriptors and processes as after the first part, and at most 10 % more memory.

The first part lasts a minute (or half of the time, if that is shorter), and continues until each attack has run once.
The exit code is 1 if a check fails.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path

from promptlogctl.client import Client
from promptlogd.wire.messages import Submitted
from tests.soak import load
from tests.soak.attackers import Attackers
from tests.soak.jailed import KINDS, alive, below, kill_one
from tests.soak.load import Case, Daemon, Gone, Ledger, Wire

CLIENTS = 6
RSS_MOST = 1.10
_BETWEEN_KILLS_S = 0.2
_QUIET_S = 60.0
_TRIMMED_S = 11.0
_KEPT_MOST = 50
"""Number of programs that each client keeps. Older ones are removed."""

_GOOD = (load.good, load.good, load.good, load.long, load.large, load.jail, load.ask, load.deno)
_BAD = (load.cpu_bomb, load.memory_bomb, load.flood, load.sleeper, load.failing, load.deno_bad)
_DENO_IDLE_S = 2
"""The daemon ends unused Deno cells after this time, so that there are none when the figures are taken."""


class _Load:
    """The work of one client process: random batches of requests until it is stopped."""

    def __init__(self, path: Path, number: int, seed: int) -> None:
        self._path = path
        self._chance = random.Random(f"{seed} {number}")
        self._number = number
        self._submits = 0
        self._kept: list[tuple[str, int]] = []
        # Half of the clients send only valid requests.
        self._kinds = _GOOD + _GOOD if number % 2 else _GOOD[:3] + _BAD
        self.ledger = Ledger()

    def step(self) -> None:
        """Do one random piece of work."""
        part = self._chance.random()
        if part < 0.1:
            self._submit()
        elif part < 0.15:
            self._cancel()
        elif part < 0.2 and self._number % 2 == 0:
            self._vanish()
        elif part < 0.25 and self._number % 2 == 0:
            load.bad_frame(self._path, self._chance, self.ledger)
        else:
            self._batch()

    def verify(self) -> None:
        """Run all kept programs, and compare their results."""
        with_all = [load.kept(self._chance, hash, salt) for hash, salt in self._kept]
        self._exchange(with_all)

    def _wire(self) -> Wire:
        return Wire(self._path, self.ledger, as_json=self._chance.random() < 0.5)

    def _exchange(self, cases: list[Case]) -> None:
        wire = self._wire()
        try:
            wire.exchange(*cases)
        except Gone:
            return  # the ledger has recorded it
        wire.close()

    def _cases(self) -> list[Case]:
        cases = [self._chance.choice(self._kinds)(self._chance) for _ in range(self._chance.randrange(1, 9))]
        if self._kept:
            cases.append(load.kept(self._chance, *self._chance.choice(self._kept)))
        return cases

    def _batch(self) -> None:
        self._exchange(self._cases())

    def _submit(self) -> None:
        wire = self._wire()
        self._submits += 1
        salt = self._number * 10**6 + self._submits
        try:
            (reply,) = wire.exchange(load.submit(salt, f"soak-{self._number}" if self._submits % 3 == 0 else None))
            if isinstance(reply, Submitted):
                if reply.hash != hashlib.sha256(load.program(salt).encode()).hexdigest():
                    self.ledger.wrong.append(f"submit: {reply.hash} is not the source's hash")
                wire.exchange(load.kept(self._chance, reply.hash, salt))
                self._kept.append((reply.hash, salt))
            if len(self._kept) > _KEPT_MOST:
                hash, _ = self._kept.pop(0)
                wire.exchange(load.remove(hash))
        except Gone:
            return
        wire.close()

    def _cancel(self) -> None:
        wire = self._wire()
        try:
            target = wire.send(load.cancelled())
            wire.send(load.good(self._chance))
            time.sleep(self._chance.random() * 0.05)
            wire.send(load.cancel(target))
            wire.collect()
        except Gone:
            return
        wire.close()

    def _vanish(self) -> None:
        wire = self._wire()
        try:
            for case in self._cases():
                wire.send(case)
            time.sleep(self._chance.random() * 0.05)
        except Gone:
            return
        wire.abandon()


def _client(path: Path, number: int, seed: int, go: Event, stop: Event, idle: Event, told: Connection) -> None:
    """The main function of a client process."""
    parent = os.getppid()
    work = _Load(path, number, seed)
    try:
        while not stop.is_set() and os.getppid() == parent:
            if go.is_set():
                work.step()
            else:
                idle.set()
                go.wait(1)
                if go.is_set():
                    idle.clear()
        work.verify()
    except Exception as error:  # any error is reported in the results
        work.ledger.unexpected.append(f"client {number} failed: {error!r}")
    idle.set()
    told.send(work.ledger)
    told.close()


@dataclass
class _Figures:
    rss_kib: int
    descriptors: int
    processes: int


def _quiet(daemon: Daemon, client: Client) -> _Figures:
    """Wait until nothing runs and the pool is full again, and measure."""
    pid = daemon.process.pid
    deadline = time.monotonic() + _QUIET_S
    while True:
        stats = client.stats()
        pool, denos = stats.pools
        processes = [found for found in below([pid]) if alive(found)]
        settled = (
            pool.blank == pool.size and denos.size == denos.blank == 0 and len(processes) == 2 + len(KINDS) * pool.size
        )
        if settled and stats.running == stats.queued == 0 and stats.clients == 1:
            break
        if time.monotonic() > deadline:
            print(f"not at rest, {len(processes)} processes: {stats}", flush=True)
            break
        time.sleep(0.05)
    time.sleep(_TRIMMED_S)  # until the daemon has returned unused memory to the kernel
    status = Path(f"/proc/{pid}/status").read_text()
    rss = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))
    return _Figures(int(rss), len(list(Path(f"/proc/{pid}/fd").iterdir())), len(processes))


class _Soak:
    def __init__(self, folder: Path, seed: int) -> None:
        self._chance = random.Random(seed)
        config = folder / "promptlog.toml"
        config.write_text(f"[deno]\nidle_s = {_DENO_IDLE_S}\n")
        self.daemon = Daemon(folder, "--config", str(config))
        self.kills: Counter[str] = Counter()
        self._killed_at: list[tuple[float, float]] = []
        self.ledger = Ledger()
        self._attackers = Attackers(self.daemon.socket, seed)
        self.attacks: Counter[str] = Counter()
        context = multiprocessing.get_context("fork")
        self._go, self._stop = context.Event(), context.Event()
        self._idle = [context.Event() for _ in range(CLIENTS)]
        self._ends: list[Connection] = []
        self._processes = []
        for number in range(CLIENTS):
            ours, theirs = context.Pipe(duplex=False)
            arguments = (self.daemon.socket, number, seed, self._go, self._stop, self._idle[number], theirs)
            process = context.Process(target=_client, args=arguments, daemon=True)
            process.start()
            theirs.close()
            self._processes.append(process)
            self._ends.append(ours)

    def run(self, seconds: float) -> tuple[_Figures, _Figures]:
        """Run the load for this time. Return the figures of the beginning and of the end."""
        deadline = time.monotonic() + seconds
        with Client(self.daemon.socket) as client:
            self._work(min(60.0, seconds / 2))
            while not self._attackers.were_all():
                self._work(1.0)
            began = self._pause(client)
            self._work(deadline - time.monotonic())
            ended = self._pause(client)
            self._stop.set()
            self._go.set()
            for number, end in enumerate(self._ends):
                if end.poll(2 * load.REPLY_S):
                    self.ledger.add(end.recv())
                else:
                    self.ledger.unexpected.append(f"client {number} did not send its ledger")
        return began, ended

    def close(self) -> int:
        """End the clients and the daemon, and return the daemon's exit code."""
        self.attacks = self._attackers.end()
        for process in self._processes:
            process.join(5)
            if process.is_alive():
                process.kill()
                process.join()
        return self.daemon.stop()

    def unexplained(self) -> list[str]:
        """Return the crashes that no kill explains."""
        return self.ledger.unexplained(self._killed_at)

    def _work(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        self._go.set()
        self._attackers.begin()
        while (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, self._chance.expovariate(1 / _BETWEEN_KILLS_S)))
            kind = self._chance.choice(KINDS)
            at = kill_one(self.daemon.process.pid, kind, self._chance)
            if at is not None:
                self.kills[kind] += 1
                self._killed_at.append(at)

    def _pause(self, client: Client) -> _Figures:
        self._go.clear()
        self._attackers.pause()
        for idle in self._idle:
            idle.wait(2 * load.REPLY_S)
        return _quiet(self.daemon, client)


def _print_table(ledger: Ledger) -> None:
    print(f"\n{'load':<20}{'requests':>9}   outcomes")
    for kind, count in sorted(ledger.requests.items()):
        ends = sorted((end, n) for (of, end), n in ledger.outcomes.items() if of == kind)
        print(f"{kind:<20}{count:>9}   {', '.join(f'{end} {n}' for end, n in ends)}")
    replies = sum(ledger.outcomes.values())
    print(f"{'all':<20}{ledger.requests.total():>9}   replies {replies}, abandoned by the client {ledger.abandoned}")


def main() -> int:
    """Run the soak, print the results, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    print(f"{options.seconds:g} s of load from {CLIENTS} clients, seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="promptlog-soak-") as folder:
        soak = _Soak(Path(folder), options.seed)
        try:
            began, ended = soak.run(options.seconds)
        finally:
            exit_code = soak.close()
        log = soak.daemon.log.read_text("utf-8", "replace").splitlines()
    ledger = soak.ledger
    _print_table(ledger)
    unexplained = soak.unexplained()
    ratio = ended.rss_kib / began.rss_kib
    unsettled = ledger.requests.total() - sum(ledger.outcomes.values()) - ledger.abandoned
    # The log also reports cells that were killed while they started, which is no failure.
    failed = [line for line in log if "Traceback" in line or ("ERROR" in line and "sandbox." not in line)]
    print(f"\nkills: {soak.kills.total()} ({', '.join(f'{kind} {soak.kills[kind]}' for kind in KINDS)})")
    attacks = soak.attacks
    print(f"attacks: {attacks.total()}, of {len(attacks)} kinds")
    print(f"reported as killed: {len(ledger.hit)}, of these without a kill that explains it: {len(unexplained)}")
    print(f"lost replies: {len(ledger.lost)}, requests without a recorded outcome: {unsettled}")
    print(f"wrong values: {len(ledger.wrong)}")
    print(f"unexpected: {len(ledger.unexpected)}; failures in the daemon's log: {len(failed)}")
    print(f"\n{'the daemon, at rest':<22}{'at first':>10}{'at the end':>12}")
    print(f"{'resident memory, KiB':<22}{began.rss_kib:>10}{ended.rss_kib:>12}   ratio {ratio:.3f}")
    print(f"{'descriptors':<22}{began.descriptors:>10}{ended.descriptors:>12}")
    print(f"{'processes':<22}{began.processes:>10}{ended.processes:>12}")
    for found in (unexplained, ledger.lost, ledger.wrong, ledger.unexpected, failed):
        for line in found[:20]:
            print(f"  {line}")
    good = (
        not (unexplained or ledger.lost or ledger.wrong or ledger.unexpected or unsettled or failed or exit_code)
        and ratio <= RSS_MOST
        and (began.descriptors, began.processes) == (ended.descriptors, ended.processes)
    )
    print("\nall checks passed" if good else "\nFAILED")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
