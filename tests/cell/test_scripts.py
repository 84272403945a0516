"""promptlog's own scripts, which the cell evaluates before it gets a program."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from cell_build import cache, checkout, embedded, engine_source
from cell_build.cell import EXECUTABLE
from placement.__main__ import BYTECODE, compile_scripts
from sandbox.cells.plan import Plan
from sandbox.engines.quickjs.host import root
from sandbox.outcome import Ok
from tests.cell.cells import a_cell, run_on
from tests.cell.test_placement import jails as _jails
from tests.hosts import host

jails = _jails
_TREE = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def engine() -> Mapping[str, bytes]:
    """The files of the engine."""
    return engine_source.find(cache.open_folder()) or engine_source.fetch(cache.open_folder())


def test_the_bytecode_matches_the_scripts() -> None:
    """The committed bytecode is what the engine compiles from the scripts.

    After a script has changed: make placement.
    """
    assert BYTECODE.read_bytes() == compile_scripts()


def test_bytecode_is_in_the_executable(engine: Mapping[str, bytes]) -> None:
    """The jail's root is one file, which contains the scripts' bytecode of this source tree."""
    scripts = embedded.bytecode(_TREE, engine)
    assert scripts is not None, "a script has changed since the last `make placement`"
    data = (_TREE / checkout.SOURCE_FOLDER / EXECUTABLE).read_bytes()
    assert all(len(script) > 50 and script in data for script in scripts.values())


def test_changed_scripts_or_engines_use_the_text(tmp_path: Path, engine: Mapping[str, bytes]) -> None:
    """For a changed script, engine or bytecode format, the build embeds the scripts' text instead of bytecode."""
    marker = b"#define SCRIPTS_ARE_BYTECODE"
    assert marker in embedded.headers(_TREE, "x86_64", engine)["scripts.h"]
    assert marker not in embedded.headers(_TREE, "x86_64", {**engine, "quickjs.h": b"another"})["scripts.h"]
    tree = tmp_path / "tree"
    for path in [*sum(embedded.SCRIPTS.values(), ()), embedded.FILTER, embedded.BYTECODE]:
        copy = tree / embedded.ENGINES / path
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes((_TREE / embedded.ENGINES / path).read_bytes())
    assert marker in embedded.headers(tree, "x86_64", engine)["scripts.h"]
    with (tree / embedded.ENGINES / "quickjs/jail/url.js").open("a") as script:
        script.write("// changed\n")
    assert marker not in embedded.headers(tree, "x86_64", engine)["scripts.h"]


async def test_runs_are_the_same_with_scripts_as_text(monkeypatch: pytest.MonkeyPatch, jails: Path) -> None:
    """A cell with scripts as text reports this on request, and gives the same results."""
    monkeypatch.setattr(embedded, "bytecode", lambda *_: None)
    monkeypatch.setattr(root, "cell", lambda: checkout.build(_TREE) / EXECUTABLE)
    plan = await host("quickjs", jails / "root").plan(None)
    source = "return [new URL('http://a/b').host, typeof Headers, Object.keys(console).length > 9]"
    async with a_cell(plan) as cell:
        result = await run_on(cell, source)
    assert isinstance(result.outcome, Ok)
    assert bytes(result.outcome.value) == b'["a","function",true]'


async def test_own_functions_look_built_in(plan: Plan) -> None:
    """A function of promptlog's scripts shows `[native code]` as its source, as functions of the engine do."""
    source = "return [URL, Headers.prototype.get, console.log, String.prototype.normalize].map((f) => `${f}`)"
    async with a_cell(plan) as cell:
        result = await run_on(cell, source)
    assert isinstance(result.outcome, Ok)
    assert bytes(result.outcome.value).count(b"[native code]") == 4
