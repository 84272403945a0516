"""Lower bounds: of a run, the fork of a small process, and a cell without its daemon; of a submit, a durable file."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import onecell
import trio

FLOOR_PYTHON = """
import os, time
for _ in range({count}):
    t = time.perf_counter()
    p = os.fork()
    if not p:
        os._exit(0)
    os.waitpid(p, 0)
    print(time.perf_counter() - t)
"""


def floors(tools: Path, count: int = 2000) -> Iterator[tuple[str, list[float]]]:
    """Yield the name of each measurement, and the seconds of each fork + exit + wait."""
    printed = subprocess.run([tools / "floor", str(count)], check=True, capture_output=True, text=True).stdout
    *samples, cpu = printed.splitlines()
    yield "floor: fork + exit + wait, C", sorted(map(float, samples))
    yield "floor: its CPU time", [float(cpu.split()[1])]
    command = [os.path.realpath(sys.executable), "-ISc", FLOOR_PYTHON.format(count=count)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    yield "floor: fork + exit + wait, bare Python", sorted(map(float, printed.split()))


def durable_file(folder: Path, name: str, data: bytes) -> float:
    """Return the seconds of storing a file so that it is complete, or not there, after a power cut at any time."""
    began = time.perf_counter()
    staged, parent = folder / f".{name}", os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        file = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(file, data)
            os.fsync(file)
        finally:
            os.close(file)
        os.rename(staged, folder / name)
        os.fsync(parent)
    finally:
        os.close(parent)
    return time.perf_counter() - began


async def one_cell(pause_s: float, count: int) -> list[float]:
    """Return the seconds of each run of the sample in a cell without the daemon."""
    samples = []
    async with onecell.one_cell() as (cell, job):
        for _ in range(count):
            await trio.sleep(pause_s)
            began = time.perf_counter()
            await onecell.run(cell, job)
            samples.append(time.perf_counter() - began)
    return sorted(samples)
