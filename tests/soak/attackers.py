"""One bad client beside the load of the soak and of the fault tests: each attack of the benchmark, in random order.

What an attacker is told is in no account: what counts is that the others are served as without it.
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
"""Small programs that attacks keep in the store."""
_PREPARED_S = 15.0
"""How long an attack may take to prepare. The daemon may be gone meanwhile."""
_END_S = 60.0
"""Longer than that."""

_NAMES = sorted(name for name, attack in ATTACKS.items() if not attack.taken_over)


class Attackers:
    """A process that attacks whatever daemon is on a socket, by one attack after the other. It starts at `begin`."""

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
        """Let it attack."""
        self._go.set()

    def were_all(self) -> bool:
        """Whether there was each attack."""
        return self._each.is_set()

    def pause(self) -> None:
        """Wait until its last attacker is gone."""
        self._go.clear()
        self._idle.wait(_END_S)

    def end(self) -> Counter[str]:
        """End it, and return how often there was which attack."""
        self._stop.set()
        self._go.set()
        try:
            return self._told.recv() if self._told.poll(_END_S) else Counter({"(no account)": 1})
        finally:
            self._process.kill()
            self._process.join()


def _attack(path: Path, seed: int, go: Event, stop: Event, idle: Event, each: Event, told: Connection) -> None:
    """Be this process. Its attacker ends with it."""
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
        except NotPrepared:  # the daemon is away, maybe for good
            left.append(name)
            continue
        done[name] += 1
        if not left:
            each.set()
    told.send(done)
    told.close()
