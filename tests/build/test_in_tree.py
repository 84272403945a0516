"""The executable that an editable installation has put into this source tree."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from cell_build import checkout, description
from cell_build.cell import EXECUTABLE
from tests.build import elf

FOLDER = Path(__file__).parents[2] / checkout.SOURCE_FOLDER


@pytest.mark.skipif(not checkout.sources(FOLDER.parents[3]), reason="the cell is not written in C yet")
def test_executable_of_the_tree_is_hardened_and_described() -> None:
    """The tests of the cell run with the executable that a wheel would have."""
    data = (FOLDER / EXECUTABLE).read_bytes()
    facts = json.loads((FOLDER / description.FACTS).read_text())
    assert hashlib.sha256(data).hexdigest() == facts["sha256"]
    assert elf.faults(data, facts["architecture"]) == []
