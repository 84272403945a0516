"""A few of the random kills that `make faults` does by the hundred."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.soak.faults import Faults


@pytest.mark.parametrize("kills", [8, pytest.param(20, marks=pytest.mark.long)])
def test_kills_at_random(tmp_path: Path, kills: int) -> None:
    """When processes are killed under load, the affected runs are reported, and acknowledged programs are kept."""
    faults = Faults(tmp_path, seed=1)
    faults.go(kills)
    assert faults.failures() == []
    assert faults.kills.total() == kills
    assert faults.kills["daemon"] == kills // 4
    assert faults.verified > faults.acknowledged > 0
