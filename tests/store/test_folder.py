"""The state folder: links and entries of other users are refused, one daemon locks it, and `damaged/` is limited."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from promptlogd.store import Damaged, Store, StoreLocked, StoreUnsafe
from promptlogd.store.damaged import DamagedFolder
from promptlogd.store.disk import open_folder
from tests.store.killed_set_aside import open_facts, open_journal
from tests.store.programs import submit

_ROOT = Path(__file__).parents[2]


def _submit(store: Store, source: bytes, name: str | None = None) -> str:
    return submit(store, source, name=name, uid=7)[0]


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state folder with a named program."""
    store = Store.open(tmp_path / "state")
    _submit(store, b"x", name="x")
    store.close()
    return tmp_path / "state"


def _link(path: Path, away: Path) -> None:
    path.rename(away)
    path.symlink_to(away)


def _dangling_link(path: Path, away: Path) -> None:
    path.rename(away)
    path.symlink_to("nowhere")


def _file(path: Path, away: Path) -> None:
    path.rename(away)
    path.write_bytes(b"precious")


def _folder(path: Path, away: Path) -> None:
    path.rename(away)
    path.mkdir()


def _open_to_others(path: Path, away: Path) -> None:
    path.chmod(0o770)


def _foreign(path: Path, away: Path) -> None:
    os.chown(path, 65534, -1)


_Change = Callable[[Path, Path], None]
_FOLDER_CHANGES = [
    (_link, "is a symbolic link"),
    (_dangling_link, "is a symbolic link"),
    (_file, "is not a folder"),
    (_open_to_others, "is accessible to other users; fix this with: chmod 700"),
    *[(_foreign, "belongs to uid 65534")] * (os.geteuid() == 0),
]


def _check_refused(state: Path, path: Path, what: str) -> None:
    for _ in range(2):
        with pytest.raises(StoreUnsafe, match=f"{path} {what}"):
            Store.open(state)


def _check_whole(state: Path) -> None:
    store = Store.open(state)
    assert store.load(store.resolve("@x")).source == b"x"
    assert store.count() == 1
    assert not list((state / "damaged").iterdir())
    store.close()


@pytest.mark.parametrize(("change", "what"), _FOLDER_CHANGES)
@pytest.mark.parametrize("which", ["programs", "damaged", "shelf"])
def test_an_unsafe_folder(state: Path, tmp_path: Path, which: str, change: _Change, what: str) -> None:
    """A folder that is a link, a file, another user's or open to others is refused; once repaired, nothing is lost."""
    path = state / which
    if which == "shelf":
        (path,) = (state / "programs").iterdir()
    away = tmp_path / "away"
    status = path.stat()
    inside = sorted(path.rglob("*"))
    change(path, away)
    _check_refused(state, path, what)
    if os.path.lexists(away):
        path.unlink()
        away.rename(path)
        assert sorted(path.rglob("*")) == inside
    else:
        path.chmod(0o700)
        os.chown(path, status.st_uid, -1)
    _check_whole(state)


@pytest.mark.parametrize("change", [_link, _dangling_link, _folder])
@pytest.mark.parametrize(
    "name", ["format", "key", "names.jsonl", "facts.sqlite3", "facts.sqlite3-wal", "reserve", "lock"]
)
def test_a_link_or_a_folder_instead_of_a_file(state: Path, tmp_path: Path, name: str, change: _Change) -> None:
    """If a file of the store is a link or a folder, the store does not open, and does not touch the link's target."""
    path, away = state / name, tmp_path / "away"
    path.touch()
    change(path, away)
    was = away.read_bytes()
    _check_refused(state, path, "is (a symbolic link|not a file)")
    assert away.read_bytes() == was
    path.rmdir() if change is _folder else path.unlink()
    away.rename(path)
    _check_whole(state)


def test_unknown_entries_are_ignored(state: Path) -> None:
    """Unknown entries below programs/ are ignored, and not removed."""
    (shelf,) = (state / "programs").iterdir()
    others = [state / "programs/zz", state / "programs/readme", shelf / ("z" * 62)]
    for path in others:
        path.write_bytes(b"")
    _check_whole(state)
    assert all(path.exists() for path in others)


def test_a_second_daemon_is_refused(state: Path) -> None:
    """A second daemon is refused with the pid of the first, and opens the folder after the first has closed it."""
    store = Store.open(state)
    with pytest.raises(StoreLocked, match=rf"\(pid {os.getpid()}\)"):
        Store.open(state)
    store.close()
    Store.open(state).close()


_LEAVES_A_CHILD = """
import os, sys
from pathlib import Path
from promptlogd.store import Store
store = Store.open(Path(sys.argv[1]))
if os.fork():
    print(os.getpid(), flush=True)
    os._exit(0)
os.close(1)
sys.stdin.read()
"""


def test_a_lock_of_a_daemon_that_has_ended(state: Path) -> None:
    """If a child of an ended daemon holds the lock, the error does not name the daemon's pid as a running process."""
    command = [sys.executable, "-c", _LEAVES_A_CHILD, str(state)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=_ROOT)
    with process:
        assert process.stdout is not None
        pid = int(process.stdout.read())
        process.wait(20)
        # The kernel may reuse the pid. The test uses pid 1, which exists and started at another time.
        lock = state / "lock"
        lock.write_text(lock.read_text().replace(str(pid), "1"))
        with pytest.raises(StoreLocked, match="started as pid 1, which is no longer visible"):
            Store.open(state)
        assert process.stdin is not None
        process.stdin.close()


def test_the_number_of_damaged_entries_is_limited(state: Path, caplog: pytest.LogCaptureFixture) -> None:
    """If there are 70 damaged programs, the last 64 are kept, and each removal is logged."""
    store = Store.open(state)
    aside = []
    for number in range(70):
        hash = _submit(store, b"%d" % number)
        (state / "programs" / hash[:2] / hash[2:] / "source").write_bytes(b"bad")
        with pytest.raises(Damaged):
            store.load(hash)
        aside.append(hash)
        _wait_for_the_clock(state / "damaged")
    store.close()
    assert {path.name.split("-")[0] for path in (state / "damaged").iterdir()} == set(aside[-64:])
    logged = [record.getMessage() for record in caplog.records if "removed its oldest entry" in record.getMessage()]
    assert [message.split(": ")[-1].split("-")[0] for message in logged] == aside[:6]


def test_the_size_of_damaged_entries_is_limited(state: Path) -> None:
    """Above 64 MiB the oldest entries are removed at a start; the newest stays even if it is larger than that."""
    damaged = state / "damaged"
    for name, size in (("a", 1), ("b", 30 << 20), ("c", 20 << 20), ("d", 20 << 20)):
        with (damaged / name).open("wb") as file:
            file.truncate(size)
        _wait_for_the_clock(damaged)
    Store.open(state).close()
    assert {path.name for path in damaged.iterdir()} == {"c", "d"}
    (damaged / "large").mkdir()
    with (damaged / "large/source").open("wb") as file:
        file.truncate(200 << 20)
    (damaged / "large").chmod(0o700)
    Store.open(state).close()
    assert {path.name for path in damaged.iterdir()} == {"large"}


def test_a_move_is_first_on_disk_in_its_new_folder(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A move syncs the new folder first, so that after a power cut the entry is in at least one of the folders."""
    Store.open(state).close()
    (state / "entry").write_bytes(b"x")
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
    with open_folder(state) as folder:
        DamagedFolder(state).move_in("entry", folder=folder, label="entry")
    assert synced == [(state / "damaged").stat().st_ino, state.stat().st_ino]


@pytest.mark.parametrize(("what", "again"), [("facts", open_facts), ("journal", open_journal)])
def test_a_crash_between_moves_loses_no_file(tmp_path: Path, what: str, again: Callable[[Path], None]) -> None:
    """If the daemon is killed after it moved one file of a damaged database, the next start keeps the others."""
    command = [sys.executable, "-m", "tests.store.killed_set_aside", what, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=_ROOT)
    assert done.returncode == 7, done.stderr
    again(tmp_path / "state")
    before, kept = (
        {path.read_bytes()[100:] for path in (tmp_path / name).rglob(f"{what}.sqlite3*")}  # without SQLite's header
        for name in ("before", "state")
    )
    assert len(before) == 2
    assert before <= kept


def test_an_entry_that_can_not_be_removed(tmp_path: Path) -> None:
    """An entry of damaged/ that can't be removed is logged, and other entries are still removed."""
    command = ["unshare", "--mount", "--map-root-user", sys.executable, "-m", "tests.store.broken_disk", "damaged"]
    done = subprocess.run([*command, tmp_path], capture_output=True, text=True, timeout=60, cwd=_ROOT)
    assert done.returncode == 0, done.stderr
    assert "can't enforce the size limit" in done.stderr


def _wait_for_the_clock(folder: Path) -> None:
    """Wait until the clock has advanced, so that a new file is later than all existing ones."""
    latest = max(path.stat().st_ctime_ns for path in folder.iterdir())
    probe = folder.parent / "probe"
    while True:
        probe.write_bytes(b"x")
        if probe.stat().st_ctime_ns > latest:
            break
    probe.unlink()


def test_a_state_folder_below_another_users_folder(tmp_path: Path) -> None:
    """The store does not open below a folder of another user, who could replace the state folder."""
    assert os.geteuid() == 0, "this test makes a folder of another user: run it as root"
    (tmp_path / "strange").mkdir()
    Store.open(tmp_path / "strange/state").close()
    os.chown(tmp_path / "strange", 4711, 4711)
    for name in ("state", "new", "new/deeper"):
        with pytest.raises(StoreUnsafe, match=r"belongs to uid 4711.*; or give --state-dir"):
            Store.open(tmp_path / "strange" / name)
    assert [path.name for path in (tmp_path / "strange").iterdir()] == ["state"]
