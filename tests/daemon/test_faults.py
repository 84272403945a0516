"""Kills at random moments, a few of what `make faults` does hundreds of."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.soak.faults import Faults


@pytest.mark.parametrize("kills", [12, pytest.param(20, marks=pytest.mark.long)])
def test_kills_at_random(tmp_path: Path, kills: int) -> None:
    """Of jailed processes and the daemon killed under load: what was hit is told, what was acknowledged is kept."""
    faults = Faults(tmp_path, seed=1)
    faults.go(kills)
    assert faults.failures() == []
    assert faults.kills.total() == kills
    assert faults.kills["daemon"] == kills // 4
    assert faults.verified > faults.acknowledged > 0
