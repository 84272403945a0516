"""Kills at random moments, a few of what `make faults` does hundreds of."""

from __future__ import annotations

from pathlib import Path

from tests.soak.faults import Faults


def test_kills_at_random(tmp_path: Path) -> None:
    """Of jailed processes and the daemon killed under load: what was hit is told, what was acknowledged is kept."""
    faults = Faults(tmp_path, seed=1)
    faults.go(20)
    assert faults.failures() == []
    assert faults.kills.total() == 20
    assert faults.kills["daemon"] == 5
    assert faults.verified > faults.acknowledged > 0
