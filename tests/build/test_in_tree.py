"""The executable that an editable installation has put into this source tree."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from cell_build import checkout, description
from cell_build.cell import EXECUTABLE, LAUNCHER
from sandbox.engines.quickjs.host import version
from tests.build import elf

FOLDER = Path(__file__).parents[2] / checkout.SOURCE_FOLDER


def test_executables_of_the_tree_are_hardened_and_described() -> None:
    """The tests run with the executables that a wheel would have."""
    data = (FOLDER / EXECUTABLE).read_bytes()
    facts = json.loads((FOLDER / description.FACTS).read_text())
    assert hashlib.sha256(data).hexdigest() == facts["sha256"]
    assert elf.faults(data, facts["architecture"]) == []
    launcher = (FOLDER.parents[3] / checkout.LAUNCHER_FOLDER / LAUNCHER).read_bytes()
    assert hashlib.sha256(launcher).hexdigest() == facts["launcher_sha256"]
    assert elf.faults(launcher, facts["architecture"]) == []


def test_artifacts_are_made_again_with_another_engine() -> None:
    """The build of QuickJS's artifacts begins with that of the executable, which covers the engine."""
    facts = json.loads((FOLDER / description.FACTS).read_text())
    assert version.artifact_build().startswith(f"{facts['build']}-")


def test_scripts_and_filter_are_in_the_executable() -> None:
    """The jail's root is one file, which holds promptlog's own scripts as they are in this tree."""
    data = (FOLDER / EXECUTABLE).read_bytes()
    for path in (FOLDER / "prelude.js", FOLDER / "builtins.js", *(FOLDER.parents[1] / "jail").glob("*.js")):
        assert path.read_bytes() in data, path
