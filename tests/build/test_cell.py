"""Builds of a small executable with this machine's compiler: caching, reproducible output, and hardening."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cell_build import description
from cell_build.cell import EXECUTABLE, LAUNCHER, Cell
from cell_build.errors import BuildError
from tests.build import elf
from tests.build.inputs import small_cell

pytestmark = pytest.mark.usefixtures("host_compiler")


def _counted(cell: Cell, folder: Path) -> Cell:
    """Return the same build with a compiler that records each call in the file `calls`."""
    script = f"import os, sys; open({str(folder / 'calls')!r}, 'a').write(' '.join(sys.argv[1:]) + '\\n'); "
    script += "os.execvp(sys.argv[1], sys.argv[1:])"
    command = (sys.executable, "-c", script, *cell.compiler.command)
    return replace(cell, compiler=replace(cell.compiler, command=command))


def _compiled(folder: Path) -> list[str]:
    """Return the C files that were compiled since the last call."""
    calls = folder / "calls"
    lines = calls.read_text().splitlines() if calls.exists() else []
    calls.unlink(missing_ok=True)
    return sorted(word for line in lines for word in line.split() if word.endswith(".c"))


def test_executable_runs_and_names_its_build(cache_folder: Path) -> None:
    """The engine is linked in, and the executable prints the same build name as the file beside it."""
    cell = small_cell()
    folder = cell.make(cache_folder)
    output = subprocess.run([folder / EXECUTABLE], capture_output=True, check=True, text=True).stdout
    facts = json.loads((folder / description.FACTS).read_text())
    assert output == f"quickjs-ng 9.8.7 {facts['build']} 1\n"
    assert facts["engine"] == "quickjs-ng"
    assert facts["engine_version"] == "9.8.7"


def test_bill_of_materials_names_what_is_linked_in(cache_folder: Path) -> None:
    """The bill of materials lists the engine with its licence, and the statically linked C library."""
    folder = small_cell().make(cache_folder)
    bill = json.loads((folder / description.BILL_OF_MATERIALS).read_text())
    engine, libc, launcher = bill["components"]
    assert (launcher["name"], len(launcher["hashes"])) == ("launch", 1)
    assert bill["bomFormat"] == "CycloneDX"
    assert (engine["name"], engine["version"]) == ("quickjs-ng", "9.8.7")
    assert engine["purl"] == "pkg:github/quickjs-ng/quickjs@v9.8.7"
    assert engine["licenses"][0]["license"]["id"] == "MIT"
    assert "Copyright (c) somebody" in engine["licenses"][0]["license"]["text"]["content"]
    assert libc["version"]
    assert libc["licenses"][0]["license"]["id"] in ("MIT", "LGPL-2.1-or-later")
    facts = json.loads((folder / description.FACTS).read_text())
    executable = bill["metadata"]["component"]
    assert executable["version"] == facts["build"]
    assert executable["hashes"] == [
        {"alg": "SHA-256", "content": hashlib.sha256((folder / EXECUTABLE).read_bytes()).hexdigest()}
    ]


def test_second_build_compiles_nothing(cache_folder: Path, tmp_path: Path) -> None:
    """A second build uses the cached executable, or after a change of promptlog's files the cached engine objects."""
    first = _counted(small_cell(), tmp_path)
    made = first.make(cache_folder)
    assert len(_compiled(tmp_path)) == 6
    assert small_cell().kept(cache_folder) == made
    changed = _counted(small_cell({"program.h": "int quickjs_is_linked(void); /* changed */\n"}), tmp_path)
    assert changed.kept(cache_folder) is None
    changed.make(cache_folder)
    assert _compiled(tmp_path) == ["cell/program.c", "launch.c"]  # the launcher's object is not cached
    assert changed.kept(cache_folder) not in (None, made)


def test_the_build_name_covers_all_inputs() -> None:
    """A change of any input changes the name of the build; the engine's build name depends only on the engine."""
    cell = small_cell()
    others = [
        replace(cell, sources={**cell.sources, "more.h": b""}),
        replace(cell, engine={**cell.engine, "list.h": b"/* */"}),
        replace(cell, compiler=replace(cell.compiler, identity="another version")),
        replace(cell, compiler=replace(cell.compiler, link_flags=("-static",))),
        replace(cell, architecture="other"),
    ]
    assert len({cell.build, *(other.build for other in others)}) == 6
    assert [other.engine_build == cell.engine_build for other in others] == [True, False, True, True, True]


@pytest.mark.parametrize("damaged", [EXECUTABLE, LAUNCHER, description.FACTS])
def test_damaged_executable_is_not_used(cache_folder: Path, damaged: str) -> None:
    """A damaged file in the cache is replaced by a new build."""
    cell = small_cell()
    folder = cell.make(cache_folder)
    assert cell.kept(cache_folder) == folder
    good = (folder / damaged).read_bytes()
    (folder / damaged).write_bytes(b"damaged")
    assert cell.kept(cache_folder) is None
    assert (cell.make(cache_folder) / damaged).read_bytes() == good


def test_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    """Neither the folder nor the time of a build is in the executable, although the program uses __FILE__."""
    asks = {"asks.c": 'const char *place(void);\nconst char *place(void) { return __FILE__ "cell"; }\n'}
    made = []
    for name in ("one", "another-with-a-longer-name"):
        folder = tmp_path / name
        folder.mkdir()
        made.append((small_cell(asks).make(folder) / EXECUTABLE).read_bytes())
        assert str(folder).encode() not in made[-1]
    assert made[0] == made[1]


def test_executable_is_hardened(cache_folder: Path) -> None:
    """No memory is writable and executable, relocations are read-only, and no loader or library is needed."""
    cell = small_cell()
    assert elf.faults((cell.make(cache_folder) / EXECUTABLE).read_bytes(), cell.architecture) == []


@pytest.mark.parametrize(
    ("link_flags", "faults"),
    [
        (("-Wl,-z,execstack", "-Wl,-z,now", "-Wl,-z,relro"), ["executable stack"]),
        (("-Wl,-z,lazy", "-Wl,-z,norelro"), ["no read-only relocations", "lazy binding"]),
        (("-Wl,-z,now", "-Wl,-z,relro", "-Wl,-z,noexecstack"), ["writable and executable memory"]),
    ],
)
def test_hardening_check_finds_faults(
    cache_folder: Path, link_flags: tuple[str, ...], faults: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check of the test above reports each missing protection."""
    monkeypatch.setattr("cell_build.cell.LINK_FLAGS", link_flags)
    both = 'int both __attribute__((section(".both,\\"awx\\",@progbits#"))) = 1;\n'
    cell = small_cell({"both.c": both} if "writable and executable memory" in faults else {})
    assert elf.faults((cell.make(cache_folder) / EXECUTABLE).read_bytes(), cell.architecture) == faults


@pytest.mark.parametrize("how", ["strcpy", "loop"])
def test_overflow_of_a_buffer_aborts(cache_folder: Path, how: str) -> None:
    """A write past the end of a buffer aborts the program, before the write or when the function returns."""
    cell = small_cell()
    if how == "strcpy" and cell.compiler.libc[0] != "glibc":
        pytest.skip("fortified functions are glibc's")
    executable = cell.make(cache_folder) / EXECUTABLE
    assert subprocess.run([executable, how, "short"], capture_output=True, check=False).returncode == 0
    done = subprocess.run([executable, how, "x" * 200], capture_output=True, check=False)
    assert done.returncode == -signal.SIGABRT
    assert (b"buffer overflow" if how == "strcpy" else b"stack smashing") in done.stderr


@pytest.mark.parametrize("name", ["program.c", "quickjs.c"])
def test_warnings_are_errors_only_in_promptlogs_files(cache_folder: Path, name: str) -> None:
    """A warning in promptlog's files fails the build with the compiler's message; one in the engine's does not."""
    unused = "static int unused(void) { return 1; }\n"
    cell = small_cell()
    if name == "quickjs.c":
        replace(cell, engine={**cell.engine, name: cell.engine[name] + unused.encode()}).make(cache_folder)
    else:
        changed = replace(cell, sources={**cell.sources, name: cell.sources[name] + unused.encode()})
        with pytest.raises(BuildError, match=r"(?s)unused-function.*PROMPTLOG_COMPILER=zig"):
            changed.make(cache_folder)
