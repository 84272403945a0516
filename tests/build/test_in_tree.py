"""The executable that an editable installation puts into this source tree."""

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
    """The executables that the tests run are hardened, and match their description, as in a wheel."""
    data = (FOLDER / EXECUTABLE).read_bytes()
    facts = json.loads((FOLDER / description.FACTS).read_text())
    assert hashlib.sha256(data).hexdigest() == facts["sha256"]
    assert elf.faults(data, facts["architecture"]) == []
    launcher = (FOLDER.parents[3] / checkout.LAUNCHER_FOLDER / LAUNCHER).read_bytes()
    assert hashlib.sha256(launcher).hexdigest() == facts["launcher_sha256"]
    assert elf.faults(launcher, facts["architecture"]) == []


def test_artifact_build_depends_on_the_executable() -> None:
    """The build name of QuickJS's artifacts begins with that of the executable, so that it covers the engine."""
    facts = json.loads((FOLDER / description.FACTS).read_text())
    assert version.artifact_build().startswith(f"{facts['build']}-")
