"""The disk space that is reserved for removals: other writes end before it is released."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from promptlogd.store.errors import StoreFull
from promptlogd.store.reserve import Reserve


def test_a_release_waits_for_guarded_writes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The reserve stays until a guarded write has ended; no other write starts meanwhile, and nothing is logged."""
    reserve = Reserve(tmp_path)
    reserve.restore()
    file = tmp_path / "reserve"
    releasing = threading.Thread(target=reserve.release)
    with reserve.guard_writes():
        releasing.start()
        deadline = time.monotonic() + 10
        while not reserve.released:
            assert time.monotonic() < deadline
        assert file.exists()
        with pytest.raises(StoreFull, match="try again"), reserve.guard_writes():
            pass
    releasing.join(20)
    assert not file.exists()
    reserve.restore()
    assert file.exists()
    with reserve.guard_writes():
        pass
    assert not caplog.records


def test_a_release_does_not_wait_forever(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """If a guarded write does not end in time, the reserve is deleted all the same, and that is logged."""
    reserve = Reserve(tmp_path, wait_s=0.01)
    reserve.restore()
    with reserve.guard_writes():
        reserve.release()
    assert not (tmp_path / "reserve").exists()
    assert "before 1 other writes have ended" in caplog.text
