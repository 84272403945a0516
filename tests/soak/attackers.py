"""One hostile client beside the load of the soak and fault tests: all attacks of the benchmark in random order.

Replies to the attacker are not checked. The tests check that other clients are served as without it.
"""

from __future__ import annotations

import multiprocessing
import os
import random
from collections import Counter
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path

from bench.attacker import NotPrepared, attacking
from bench.attacks import ATTACKS

_EACH_S = 1.5
_PROGRAMS = 200
"""Number of small programs that attacks keep in the store."""
_PREPARED_S = 15.0
"""Maximum time that an attack may take to prepare. The daemon may be down meanwhile."""
_END_S = 60.0
"""Longer than the time to prepare."""

_NAMES = sorted(name for name, attack in ATTACKS.items() if not attack.taken_over)


class Attackers:
    """A process that runs one attack after another on a daemon. The attacks start when `begin` is called."""

    def __init__(self, path: Path, seed: int) -> None:
        context = multiprocessing.get_context("fork")
        self._go, self._stop, self._idle = context.Event(), context.Event(), context.Event()
        self._each = context.Event()
        self._told, told = context.Pipe(duplex=False)
        arguments = (path, seed, self._go, self._stop, self._idle, self._each, told)
        self._process = context.Process(target=_attack, args=arguments)
        self._process.start()
        told.close()

    def begin(self) -> None:
        """Start the attacks."""
        self._go.set()

    def were_all(self) -> bool:
        """Whether each attack has run at least once."""
        return self._each.is_set()

    def pause(self) -> None:
        """Stop the attacks, and wait until the last attacker is gone."""
        self._go.clear()
        self._idle.wait(_END_S)

    def end(self) -> Counter[str]:
        """End the process, and return how often each attack has run."""
        self._stop.set()
        self._go.set()
        try:
            return self._told.recv() if self._told.poll(_END_S) else Counter({"(no account)": 1})
        finally:
            self._process.kill()
            self._process.join()


def _attack(path: Path, seed: int, go: Event, stop: Event, idle: Event, each: Event, told: Connection) -> None:
    """The main function of the attacking process. The attack that it runs ends with it."""
    parent = os.getppid()
    chance = random.Random(f"{seed} attacks")
    done: Counter[str] = Counter()
    left: list[str] = []
    while not stop.is_set() and os.getppid() == parent:
        if not go.is_set():
            idle.set()
            go.wait(1)
            continue
        idle.clear()
        left = left or chance.sample(_NAMES, len(_NAMES))
        name = left.pop()
        try:
            with attacking(name, str(path), programs=_PROGRAMS, prepared_s=_PREPARED_S) as begin:
                begin()
                stop.wait(_EACH_S)
        except NotPrepared:  # the daemon is down, maybe permanently
            left.append(name)
            continue
        done[name] += 1
        if not left:
            each.set()
    told.send(done)
    told.close()
