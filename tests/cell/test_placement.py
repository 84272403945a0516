"""The placement table is in force, and runs without it give the same results."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from cell_build import cache, checkout, engine_source
from cell_build.cell import EXECUTABLE
from placement.table import Table, as_header, ranges
from sandbox.cells.plan import Plan
from sandbox.cells.process import only_child
from sandbox.engines.quickjs.host import root
from sandbox.engines.quickjs.host.cell import QuickJSCell
from sandbox.outcome import Ok
from tests.cell.cells import a_cell, run_on, until_blank
from tests.hosts import host

SOURCE = "const words = prompt.split(' ');\nreturn words.reverse().join(' ')"
RUNS = 5

MOST_FAULTS = 70
"""Upper bound of the page faults of a run of this source, with its check. Measured: 45 with the table, 98 without."""


@pytest.fixture
def jails() -> Iterator[Path]:
    """A folder for a jail's root that the jail's user can enter."""
    folder = Path(tempfile.mkdtemp(prefix="promptlog-", dir="/run" if os.geteuid() == 0 else None))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def _faults_of_children(pid: int) -> int:
    """Minor page faults of the children that a process has reaped: field 11 of /proc/PID/stat."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[8])


async def _run(cell: QuickJSCell) -> None:
    result = await run_on(cell, SOURCE, prompt="hello world")
    assert isinstance(result.outcome, Ok)
    assert bytes(result.outcome.value) == b'"world hello"'
    await until_blank(cell)


async def _faults(plan: Plan) -> float:
    """Return the average page faults of a run's child."""
    async with a_cell(plan) as cell:
        zygote = only_child(cell.process.pid)
        assert zygote is not None
        before = _faults_of_children(zygote)
        for _ in range(RUNS):
            await _run(cell)
        return (_faults_of_children(zygote) - before) / RUNS


def _said(folder: Path, environment: Mapping[str, str] | None = None) -> str:
    """Return what the cell in a jail's root reports about its table."""
    command = [f"{folder}{root.CELL}", "placement"]
    done = subprocess.run(command, cwd=folder, env=environment or {}, stderr=subprocess.PIPE, text=True, check=True)
    return done.stderr


async def test_the_table_is_in_force(jails: Path) -> None:
    """A run has far fewer page faults than without the table. After a script has changed: make placement."""
    plan = await host("quickjs", jails / "root").plan(None)
    assert _said(jails / "root") == "in force\n"
    assert await _faults(plan) < MOST_FAULTS


@pytest.mark.parametrize("environment", [{"TZ": "Asia/Tokyo"}, {"LC_ALL": "tr_TR.UTF-8", "LANG": "tr_TR.UTF-8"}])
def test_the_table_fits_each_start(tmp_path: Path, environment: dict[str, str]) -> None:
    """The table is in force for any addresses, time zone and locale."""
    folder = root.build_root(tmp_path / "root").path
    assert {_said(folder, environment) for _ in range(5)} == {"in force\n"}


async def test_the_table_of_another_engine_is_not_used(monkeypatch: pytest.MonkeyPatch, jails: Path) -> None:
    """A cell whose table was generated with another engine build has more page faults, but the same results."""
    monkeypatch.setattr(root, "cell", lambda: _with_other_table(rb'(ENGINE_BUILD) "\w+"', rb'\1 "another"'))
    plan = await host("quickjs", jails / "root").plan(None)
    assert _said(jails / "root") == "not in force: make placement\n"
    assert await _faults(plan) > MOST_FAULTS


async def test_the_table_of_another_start_is_detected(monkeypatch: pytest.MonkeyPatch, jails: Path) -> None:
    """If a script has changed without the table, the cell reports it on request, and runs give the same results."""
    monkeypatch.setattr(root, "cell", lambda: _with_other_table(rb"(BLOCKS) (\d+)", rb"\1 1\2"))
    plan = await host("quickjs", jails / "root").plan(None)
    assert _said(jails / "root") == "not in force: make placement\n"
    async with a_cell(plan) as cell:
        await _run(cell)


def test_the_table_as_a_header() -> None:
    """Blocks that more than a quarter of the runs write to are listed separately; differing starts are refused."""
    runs = [[1, 2, 2, 1, 0, 0], [1, 2, 2, 1, 0, 0], [2, 1, 1, 1, 0, 0], [1, 1, 1, 2, 0, 0]]
    table = Table.from_traces(map(bytes, runs))
    assert table == Table(blocks=4, by_many=frozenset({1, 2}), by_some=frozenset({0, 3}))
    assert ranges(table) == [(0, 1, False), (1, 2, True), (3, 1, False)]
    assert "    {0, 1, 0}, {1, 2, 1}, {3, 1, 0},\n" in as_header(table, "engine")
    with pytest.raises(ValueError, match=r"the starts took \[2, 4\] blocks"):
        Table.from_traces(map(bytes, [*runs, [1, 1, 0]]))


def _with_other_table(pattern: bytes, other_text: bytes) -> Path:
    """Build the cell with a changed table."""
    cache_folder = cache.open_folder()
    engine = engine_source.find(cache_folder) or engine_source.fetch(cache_folder)
    tree = Path(__file__).parents[2]
    cell = checkout.inputs(tree, engine)
    name = "placement.h"
    table, changed = re.subn(pattern, other_text, cell.sources[name])
    assert changed == 1
    other = replace(cell, sources={**cell.sources, name: table})
    return (other.kept(cache_folder) or other.make(cache_folder)) / EXECUTABLE
