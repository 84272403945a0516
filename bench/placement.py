"""Measures the gain of the QuickJS cell's placement table: runs on cells with and without the table, in turn.

python -m bench.placement [--rounds 16] [--runs 200]
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import trio

from cell_build import cache, checkout, engine_source
from cell_build.cell import EXECUTABLE
from sandbox.cells.job import Job
from sandbox.cells.process import only_child
from sandbox.engines.quickjs.host import root
from sandbox.limits import Limits
from sandbox.program import Artifact, Form
from sandbox.protocol.frames import Task
from tests.cell.cells import a_cell, finish, until_blank
from tests.hosts import host

ROOT = Path(__file__).parents[1]
PROGRAMS = ("examples/reverse.js", "placement/samples/json.js", "placement/samples/classes.js")
TITLES = ("child us", "zygote us", "both us", "child faults", "zygote faults", "latency us")


def built(with_table: bool) -> Path:
    """Return the executable of the cell, or of a cell whose table is for another build of the engine."""
    folder = cache.open_folder()
    engine = engine_source.find(folder) or engine_source.fetch(folder)
    cell = checkout.inputs(ROOT, engine)
    if not with_table:
        table = re.sub(rb'(ENGINE_BUILD) "\w+"', rb'\1 "another"', cell.sources["placement.h"])
        cell = replace(cell, sources={**cell.sources, "placement.h": table})
    return (cell.kept(folder) or cell.make(folder)) / EXECUTABLE


def zygote_figures(pid: int) -> tuple[float, int, int]:
    """Return its CPU time in us, its minor faults, and the minor faults of its ended children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1000, int(fields[7]), int(fields[8])


async def measure(executable: Path, source: bytes, runs: int) -> Sequence[float]:
    """Return measurements for one run, in the order of TITLES: means, but the median of the latency."""
    folder = Path(tempfile.mkdtemp(prefix="promptlog-", dir="/run" if os.geteuid() == 0 else None))
    folder.chmod(0o755)
    root.cell = lambda: executable
    artifact = Artifact(form=Form.BODY, language="javascript")
    limits = Limits(wall_ms=60_000)
    job = Job(
        task=Task.RUN, source=source, language="javascript", prompt="hello world", limits=limits, artifact=artifact
    )
    child_us, latencies_us = 0.0, []
    try:
        async with a_cell(await host("quickjs", folder / "root").plan(None)) as cell:
            zygote = only_child(cell.process.pid)
            assert zygote is not None
            before = zygote_figures(zygote)
            for _ in range(runs):
                began = time.perf_counter()
                result = await finish(cell, job)
                latencies_us.append((time.perf_counter() - began) * 1e6)
                child_us += result.usage.cpu_ms * 1000
                await until_blank(cell)
            zygote_us, own, childrens = (now - then for now, then in zip(zygote_figures(zygote), before, strict=True))
    finally:
        shutil.rmtree(folder)
    means = [figure / runs for figure in (child_us, zygote_us, child_us + zygote_us, childrens, own)]
    return [*means, statistics.median(latencies_us)]


async def main() -> None:
    """Print medians over the rounds."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=16)
    parser.add_argument("--runs", type=int, default=200)
    options = parser.parse_args()
    cells = {"without": built(False), "with": built(True)}
    print(f"{'':36s}" + "".join(f"{title:>14s}" for title in TITLES))
    for program in PROGRAMS:
        source = (ROOT / program).read_bytes()
        rounds: dict[str, list[Sequence[float]]] = {name: [] for name in cells}
        for number in range(options.rounds):
            for name in sorted(cells, reverse=number % 2 == 0):
                rounds[name].append(await measure(cells[name], source, options.runs))
        for name, figures in rounds.items():
            medians = [statistics.median(column) for column in zip(*figures, strict=True)]
            print(f"{program + ', ' + name:36s}" + "".join(f"{figure:14.1f}" for figure in medians))
        ratios = [
            [a / b for a, b in zip(*pair, strict=True)] for pair in zip(rounds["with"], rounds["without"], strict=True)
        ]
        medians = [statistics.median(column) for column in zip(*ratios, strict=True)]
        print(f"{'  with / without, paired':36s}" + "".join(f"{ratio:14.2f}" for ratio in medians))


if __name__ == "__main__":
    trio.run(main)
