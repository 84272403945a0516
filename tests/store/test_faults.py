"""The store on a faulty disk and with a faulty clock: it opens, and serves nothing wrong."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from promptlogd.store import NotFound, Store, StoreError
from tests.store.programs import submit

_ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip fsync, because these tests do not depend on it."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.mark.parametrize("scenario", ["fills", "opens", "removes", "crowds", "read-only"])
def test_a_small_disk(tmp_path: Path, scenario: str) -> None:
    """On a tmpfs that is full or read-only, every acknowledged change is complete on the disk."""
    script = 'mount -t tmpfs -o size=8m none "$1" && exec "$2" -m tests.store.small_disk "$3" "$1"'
    command = [
        "unshare",
        "--mount",
        "--map-root-user",
        "sh",
        "-c",
        script,
        "sh",
        str(tmp_path),
        sys.executable,
        scenario,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=_ROOT)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("lost", ["facts.sqlite3", "the log"])
def test_lost_sqlite_data_is_restored(tmp_path: Path, lost: str) -> None:
    """Programs and names that SQLite lost in a power cut are there again after the next start."""
    store = Store.open(tmp_path / "state")
    first, _ = submit(store, b"1", name="x", uid=0)
    store.close()
    shutil.copy(tmp_path / "state/facts.sqlite3", tmp_path / "facts.sqlite3")
    store = Store.open(tmp_path / "state")
    second, _ = submit(store, b"2", name="x", uid=0)
    store.record_run(first)
    store.close()
    if lost == "the log":
        (tmp_path / "facts.sqlite3").rename(tmp_path / "state/facts.sqlite3")
    else:
        (tmp_path / "state/facts.sqlite3").unlink()
    store = Store.open(tmp_path / "state")
    assert store.resolve("@x") == second
    assert store.resolve(second[:8]) == second
    assert store.count() == 2
    store.close()


def test_records_without_checksums(tmp_path: Path) -> None:
    """Records that an older version wrote without checksums are read."""
    store = Store.open(tmp_path / "state")
    hash, _ = submit(store, b"1", name="x", uid=7)
    store.close()
    folder = tmp_path / "state/programs" / hash[:2] / hash[2:]
    for path in (folder / "meta.json", tmp_path / "state/names.jsonl"):
        path.write_bytes(b"\n".join(line.rpartition(b" ")[0] for line in path.read_bytes().splitlines()))
    (tmp_path / "state/facts.sqlite3").unlink()
    store = Store.open(tmp_path / "state")
    assert store.resolve("@x") == hash
    assert store.show(hash).fact.created_by == 7
    store.close()


def test_a_clock_that_jumps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the wall clock stands still, goes back, or is before 1970, lists, names and histories still work."""
    chance = random.Random(5)
    jumps = [0.0, -86400.0, 1.7e9, 1.7e9, 4e9, 1.0, 1.7e9 + 1e-7, -0.5]
    monkeypatch.setattr(time, "time", lambda: chance.choice(jumps))
    monkeypatch.setattr(time, "time_ns", lambda: 5)
    store = Store.open(tmp_path / "state")
    kept = []
    for number in range(40):
        kept.append(submit(store, b"%d" % number, name="x", uid=0)[0])
        store.record_run(kept[-1])
        store.flush()
        assert store.resolve("@x") == kept[-1]
    assert store.label("x", None) == (kept[-2], kept[-1])
    for _ in range(2):
        seen: list[str] = []
        after: str | None = None
        while len(seen) <= len(kept):
            page = store.list(3, after)
            seen += [row.fact.hash for row in page.rows]
            after = page.next
            if after is None:
                break
        assert sorted(seen) == sorted(kept)
        assert [move.hash for move in store.show(kept[-2]).history["x"]] == [*kept, kept[-2]]
        store.close()
        (tmp_path / "state/facts.sqlite3").unlink()
        store = Store.open(tmp_path / "state")
    for _ in range(2):  # set aside twice within one tick of the clock
        (tmp_path / "state/programs" / kept[0][:2] / kept[0][2:] / "source").write_bytes(b"bad")
        with pytest.raises(StoreError):
            store.load(kept[0])
        assert submit(store, b"0", uid=0) == (kept[0], True)
    assert len(list((tmp_path / "state/damaged").glob(f"{kept[0]}-*"))) == 2
    store.close()


_WORKER = """
import sys
from pathlib import Path
from promptlogd.store import Store
from tests.store.programs import submit
store = Store.open(Path(sys.argv[1]))
kept = []
for number in range(10_000):
    name = f"name-{sys.argv[2]}-{number}"
    kept.append((name, submit(store, name.encode(), name=name, uid=0)[0]))
    print("kept", *kept[-1], flush=True)
    if number % 2:
        store.remove(kept[0][1])
        print("removed", *kept.pop(0), flush=True)
"""


def test_sigkill_at_any_time(tmp_path: Path) -> None:
    """After SIGKILL every acknowledged change is there, and an interrupted removal is complete or had no effect."""
    chance = random.Random(7)
    state = tmp_path / "state"
    there: dict[str, str] = {}
    gone: dict[str, str] = {}
    for turn in range(12):
        command = [sys.executable, "-c", _WORKER, str(state), str(turn)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=_ROOT) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(chance.randrange(1, 40))]
            process.kill()
            lines += process.stdout.readlines()
        for verb, name, hash in (line.split() for line in lines if line.endswith("\n")):
            if verb == "removed":
                del there[name]
            (there if verb == "kept" else gone)[name] = hash
        store = Store.open(state)
        maybe_removed = next((name for name in there if name.startswith(f"name-{turn}-")), None)
        for name, hash in list(there.items()):
            try:
                assert store.load(hash).source == name.encode()
                assert store.resolve(f"@{name}") == hash
            except NotFound:
                assert name == maybe_removed
                with pytest.raises(NotFound):
                    store.load(hash)
                del there[name]
        for name, hash in gone.items():
            for reference in (f"@{name}", hash):
                with pytest.raises(NotFound):
                    store.load(store.resolve(reference))
        assert not list((state / "programs").glob(".[ts]*-*"))
        assert not list((state / "damaged").iterdir())
        store.close()
    assert len(gone) > 50
