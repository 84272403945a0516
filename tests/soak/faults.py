"""Kills random processes with SIGKILL: children, zygotes, nsjails, and the daemon, during runs and submits.

One attacker runs beside the clients all the time, on each daemon in turn.

    python -m tests.soak.faults [--kills 300] [--seed N]

It checks that:

- a run whose process was killed is reported as such, and no other run is affected,
- no jailed process lives longer than a second after the daemon's death,
- no program is stored in part, and the next daemon starts without errors,
- every acknowledged program is stored, runs, and gives the right result.

The exit code is 1 if a check fails.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from promptlogctl.client import Client
from promptlogd.store.artifacts import place_of
from promptlogd.store.disk import open_folder
from promptlogd.store.files import read_artifact, read_meta, read_program
from promptlogd.store.key import Key
from promptlogd.store.spares import MOST
from promptlogd.wire.messages import Submitted
from sandbox.claim import sweep
from tests.soak import load
from tests.soak.attackers import Attackers
from tests.soak.jailed import KINDS, Orphans, kill_one
from tests.soak.load import Daemon, Gone, Ledger, Wire

RUNNERS = 3
SUBMITTERS = 2
JAILED_MOST_S = 1.0
_KILLS_PER_LIFE = 4
"""Number of kills in the life of a daemon. The last one kills the daemon."""

_BETWEEN_S = 0.1
_VERIFIED_BEFORE = 50
"""Number of older programs to verify after each start, beside all of the last life. At the end all are verified."""


class _Life(threading.Thread):
    """A client for one life of the daemon, which runs or submits programs until the daemon is gone."""

    def __init__(self, path: Path, seed: str, *, submits: bool) -> None:
        super().__init__()
        self._path = path
        self._chance = random.Random(seed)
        self._submits = submits
        self.stop = False
        self.ledger = Ledger()
        self.acknowledged: dict[str, int] = {}

    def run(self) -> None:
        """Run until the daemon is gone."""
        try:
            wire = Wire(self._path, self.ledger, mortal=True)
            while not self.stop:
                if self._submits:
                    self._submit(wire)
                else:
                    kinds = (load.good, load.good, load.long, load.large, load.jail, load.deno)
                    wire.exchange(*(self._chance.choice(kinds)(self._chance) for _ in range(4)))
            wire.close()
        except Gone:
            pass
        except Exception as error:  # any error is reported in the results
            self.ledger.unexpected.append(f"a client failed: {error!r}")

    def _submit(self, wire: Wire) -> None:
        salts = [self._chance.randrange(10**9) for _ in range(3)]
        ids = [wire.send(load.submit(salt, f"name-{salt % 100}")) for salt in salts]
        try:
            wire.collect()
        finally:
            # A program that was acknowledged just before the end counts.
            for id, salt in zip(ids, salts, strict=True):
                reply = wire.replies.pop(id, None)
                if isinstance(reply, Submitted):
                    self.acknowledged[reply.hash] = salt


class Faults:
    """Consecutive lives of a daemon on one state folder, each ended by SIGKILL."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder = folder
        self._seed = seed
        self._chance = random.Random(seed)
        self._attackers = Attackers(folder / "socket", seed)  # started before Orphans, which counts only later children
        self._orphans = Orphans()
        self._state = folder / "state"
        self._lives = 0
        self._killed_at: list[tuple[float, float]] = []
        self._programs: dict[str, int] = {}
        self._new: dict[str, int] = {}
        self.kills: Counter[str] = Counter()
        self.attacks: Counter[str] = Counter()
        self.ledger = Ledger()
        self.outlived_s: list[float] = []
        self.verified = 0
        self.broken: list[str] = []

    @property
    def acknowledged(self) -> int:
        """Number of programs that the daemon acknowledged."""
        return len(self._programs) + len(self._new)

    def go(self, kills: int) -> None:
        """Do this number of kills, then verify everything, and stop the daemon normally."""
        self._attackers.begin()
        try:
            while (left := kills - self.kills.total()) > 0:
                self._life(min(left, _KILLS_PER_LIFE))
            daemon = self._start()
            try:
                self._verify(daemon, {**self._programs, **self._new})
            finally:
                if daemon.stop() != 0:
                    self.broken.append("the last daemon did not exit with 0")
            self._check_objects()
        finally:
            self.attacks = self._attackers.end()
            sweep(Path("/run"), "promptlog-jails-*", shutil.rmtree)  # left by the last daemon that was killed

    def failures(self) -> list[str]:
        """Return all failures."""
        ledger = self.ledger
        unexplained = [f"no kill explains: {what}" for what in ledger.unexplained(self._killed_at)]
        return [*self.broken, *unexplained, *ledger.lost, *ledger.wrong, *ledger.unexpected]

    def _start(self) -> Daemon:
        daemon = Daemon(self._folder)
        log = daemon.log.read_text("utf-8", "replace")
        self.broken += [line for line in log.splitlines() if "ERROR" in line or "Traceback" in line]
        daemon.log.unlink()
        self.broken += [f"left over after a start: {path}" for path in (self._state / "programs").glob(".tmp-*")]
        spares = list((self._state / "programs").glob(".spare-*"))
        if len(spares) > MOST:
            self.broken.append(f"{len(spares)} spare folders after a start")
        return daemon

    def _life(self, kills: int) -> None:
        daemon = self._start()
        clients: list[_Life] = []
        try:
            before = self._chance.sample(sorted(self._programs), min(_VERIFIED_BEFORE, len(self._programs)))
            self._verify(daemon, {**self._new, **{hash: self._programs[hash] for hash in before}})
            self._programs |= self._new
            self._new = {}
            self._lives += 1
            for number in range(RUNNERS + SUBMITTERS):
                seed = f"{self._seed} {self._lives} {number}"
                clients.append(_Life(daemon.socket, seed, submits=number >= RUNNERS))
                clients[-1].start()
            for _ in range(kills - 1):
                self._kill_one(daemon)
            time.sleep(self._chance.random() * 2 * _BETWEEN_S)
            daemon.process.kill()
            killed_at = time.monotonic()
            self.kills["daemon"] += 1
            daemon.process.wait()
            try:
                self._orphans.gone_after(killed_at + JAILED_MOST_S - time.monotonic())
                self.outlived_s.append(time.monotonic() - killed_at)
            except TimeoutError as error:
                self.broken.append(str(error))
        finally:
            daemon.stop(signal.SIGKILL)
            for client in clients:
                client.stop = True
                client.join(2 * load.REPLY_S)
                self.ledger.add(client.ledger)
                self._new |= client.acknowledged
        self._check_objects()

    def _kill_one(self, daemon: Daemon) -> None:
        kind = self._chance.choice(KINDS)
        time.sleep(self._chance.random() * 2 * _BETWEEN_S)
        deadline = time.monotonic() + 5
        while (at := kill_one(daemon.process.pid, kind, self._chance)) is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"for 5 s there was no {kind} to kill")
            time.sleep(0.001)
        self.kills[kind] += 1
        self._killed_at.append(at)

    def _verify(self, daemon: Daemon, programs: dict[str, int]) -> None:
        """Run these programs, compare their results, and check that they are listed."""
        wire = Wire(daemon.socket, self.ledger)
        for hash, salt in programs.items():
            wire.exchange(load.kept(self._chance, hash, salt, kind="verified"))
            self.verified += 1
        wire.close()
        with Client(daemon.socket) as client:
            listed = {row.hash for row in client.list()}
            # Programs of attacks are left out, because they are removed meanwhile.
            named = [row for row in client.list() if row.names and row.names[0].startswith("name-")]
            for row in named[:10]:
                if client.show(f"@{row.names[0]}").hash != row.hash:
                    self.broken.append(f"@{row.names[0]} refers to another program than the list says")
        self.broken += [f"not listed: {hash}" for hash in programs if hash not in listed]

    def _check_objects(self) -> None:
        """Check that each program on the disk is complete."""
        key = Key(self._state)
        key.prepare()
        for folder in (self._state / "programs").glob("[0-9a-f][0-9a-f]/*"):
            hash = folder.parent.name + folder.name
            try:
                with open_folder(folder) as descriptor:
                    meta = read_meta(descriptor, hash)
                    read_program(descriptor, hash, language=meta.language, engine=meta.engine)
                    (artifact,) = folder.glob("artifact.*")
                    place = place_of(hash, artifact.name)
                    assert place is not None
                    read_artifact(descriptor, place, key.value)
            except Exception as error:
                self.broken.append(f"a partial object: {hash}: {error!r}")
        if any((self._state / "damaged").iterdir()):
            self.broken.append("something was set aside as damaged")


def main() -> int:
    """Run the test, print the results, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    print(f"{options.kills} kills, {RUNNERS} clients that run and {SUBMITTERS} that submit, seed {options.seed}")
    with tempfile.TemporaryDirectory(prefix="promptlog-faults-") as folder:
        faults = Faults(Path(folder), options.seed)
        faults.go(options.kills)
    ledger = faults.ledger
    failures = faults.failures()
    print(f"kills: {', '.join(f'{kind} {faults.kills[kind]}' for kind in (*KINDS, 'daemon'))}")
    print(f"attacks: {faults.attacks.total()}, of {len(faults.attacks)} kinds")
    print(f"requests: {ledger.requests.total()}, of these in flight when the daemon died: {ledger.abandoned}")
    for kind, count in sorted(ledger.requests.items()):
        ends = sorted((end, n) for (of, end), n in ledger.outcomes.items() if of == kind)
        print(f"  {kind:<16}{count:>7}   {', '.join(f'{end} {n}' for end, n in ends)}")
    print(f"runs whose process was killed, and reported as such: {len(ledger.hit)}")
    print(f"programs acknowledged: {faults.acknowledged}, verified by {faults.verified} runs after a restart")
    print(f"last jailed process after the daemon's death: {max(faults.outlived_s, default=0):.3f} s at most")
    print(f"lost replies: {len(ledger.lost)}, wrong values: {len(ledger.wrong)}, failures in all: {len(failures)}")
    for line in failures[:40]:
        print(f"  {line}")
    print("all checks passed" if not failures else "FAILED")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
