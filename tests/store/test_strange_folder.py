"""A folder that is not a store is refused, and nothing in it is changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from promptlogd.store import Store, StoreError
from tests.daemon.processes import Daemon


def _home(folder: Path) -> None:
    (folder / "jail-root-docs").mkdir()
    (folder / "jail-root-docs/a").write_text("precious")


def _jails(folder: Path) -> None:
    (folder / "jails/work").mkdir(parents=True)
    (folder / "jails/work/a").write_text("precious")


def _same_names(folder: Path) -> None:
    for name in ("lock", "reserve", "names.jsonl"):
        (folder / name).write_text("precious")


def _a_format_file(folder: Path) -> None:
    (folder / "format").write_text("precious")


def _files(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("fill", [_home, _jails, _same_names, _a_format_file])
def test_a_folder_with_other_files_is_refused(tmp_path: Path, fill: Callable[[Path], None]) -> None:
    """An empty folder becomes a store; a folder with other files is refused, and they are unchanged."""
    folder = tmp_path / "state"
    folder.mkdir(0o700)
    Store.open(folder).close()
    strange = tmp_path / "strange"
    strange.mkdir(0o700)
    fill(strange)
    before = _files(strange)
    with pytest.raises(StoreError, match="is not empty and is not a promptlog store; nothing in it was changed"):
        Store.open(strange)
    assert _files(strange) == before


def test_the_daemon_does_not_touch_such_a_folder(tmp_path: Path) -> None:
    """A daemon whose state folder has other files does not start, and says why in one line."""
    state = tmp_path / "state"
    state.mkdir(0o700)
    _jails(state)
    _home(state)
    before = _files(state)
    daemon = Daemon(tmp_path)
    assert not daemon.ready
    assert daemon.process.wait(20) != 0
    (line,) = daemon.log.read_text().splitlines()
    assert f"{state} is not empty and is not a promptlog store" in line
    assert _files(state) == before


@pytest.mark.parametrize("folder", ["/", "/proc", "/tmp"])
def test_no_chmod_advice_for_system_folders(folder: str) -> None:
    """The error about a system folder does not advise to change its mode."""
    with pytest.raises(StoreError, match="is not a promptlog store") as refused:
        Store.open(Path(folder))
    assert "chmod" not in str(refused.value)


def test_a_first_start_that_was_killed_can_be_repeated(tmp_path: Path) -> None:
    """A folder that contains only the lock, as a kill during the first start leaves it, is accepted."""
    state = tmp_path / "state"
    state.mkdir(0o700)
    (state / "lock").write_text("1 2\n")
    Store.open(state).close()
    assert (state / "format").exists()
