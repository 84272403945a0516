"""gc removes unused programs on request, for a submit that needs room, and on a timer; the store has a quota."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from promptlogctl.client import Client, RequestRefused
from promptlogd.collector import Collector
from promptlogd.config import JournalSettings, StoreSettings
from promptlogd.journal import Journal
from promptlogd.journal.filter import Filter
from promptlogd.store import Store
from promptlogd.wire.messages import JournalEntry
from tests.ctl.command import ctl
from tests.daemon.ordinary_user import NOBODY, ordinary_user
from tests.daemon.processes import Daemon, a_daemon, ask, talk, until
from tests.daemons import configured_daemon
from tests.store.reopened import reopened
from tests.upkeep.old_programs import put_old

_KB = 1024


def _hashes(client: Client) -> set[str]:
    return {row.hash for row in client.list()}


def _collected(client: Client, count: int) -> list[JournalEntry]:
    """Wait until the journal has this number of removals, and return them. They are written once a second."""
    found: list[JournalEntry] = []

    def enough() -> bool:
        found[:] = [entry for entry in client.journal() if entry.outcome == "collected"]
        return len(found) >= count

    until(enough)
    return found


def test_gc_removes_unused_programs(tmp_path: Path) -> None:
    """gc removes old programs but not new, named or recently run ones; the journal and the log list each removal."""
    state = tmp_path / "state"
    old = put_old(state, [b"return 1", b"return 2", b"return 3"], days=40)
    (named,) = put_old(state, [b"return 4"], days=50, name="kept")
    with a_daemon(tmp_path) as daemon, Client(daemon.socket) as client:
        new = client.submit("return 5").hash
        client.run(old[2])
        for dry_run in (True, False):
            done = ctl(daemon.socket, "gc", "--unused", "30d", *(["--dry-run"] if dry_run else []))
            assert done.returncode == 0, done.stderr
            assert [line.split("\t")[0] for line in done.stdout.decode().splitlines()] == old[:2]
            assert b"remove" in done.stderr
            assert _hashes(client) == {*old, named, new} - ({*old[:2]} if not dry_run else set())
        assert {entry.hash for entry in _collected(client, 2)} == set(old[:2])
        assert b"removed 0 programs" in ctl(daemon.socket, "gc", "--unused", "30d").stderr
        assert client.run("@kept").value == 4
    assert daemon.log.read_text().count("collected program") == 2


def test_a_repeated_submit_counts_as_use(tmp_path: Path) -> None:
    """gc removes no program that its only holder has submitted again, so the client can run it. It removes the program
    after others to make room, also after a restart."""
    state = tmp_path / "state"
    old = put_old(state, [b"return 1", b"return 2"], days=40, uid=os.geteuid())
    with a_daemon(tmp_path) as daemon, Client(daemon.socket) as client:
        assert client.submit("return 1").created is False
        planned = json.loads(ctl(daemon.socket, "gc", "--over", "1", "--dry-run", "--json").stdout)
        assert [one["hash"] for one in planned["programs"]] == [old[1], old[0]]
    with a_daemon(tmp_path) as daemon, Client(daemon.socket) as client:
        for option in ("--dry-run", "--json"):
            done = ctl(daemon.socket, "gc", "--unused", "30d", option)
            assert old[0] not in done.stdout.decode()
            assert old[1] in done.stdout.decode()
        assert client.run(old[0]).value == 1


@pytest.mark.long
def test_gc_shrinks_the_store_to_a_size(tmp_path: Path) -> None:
    """Programs that were unused the longest are removed first, over several pages, until the store is small enough."""
    sources = [b"return '%d'" % number for number in range(250)]
    old = put_old(tmp_path / "state", sources, days=2)
    with a_daemon(tmp_path) as daemon, Client(daemon.socket) as client:
        before = json.loads(ctl(daemon.socket, "gc", "--over", "1T", "--json").stdout)
        assert before["programs"] == []
        most = before["store_bytes"] // 4
        planned = json.loads(ctl(daemon.socket, "gc", "--over", str(most), "--dry-run", "--json").stdout)
        done = json.loads(ctl(daemon.socket, "gc", "--over", str(most), "--json").stdout)
        assert planned["programs"] == done["programs"]
        assert len(done["programs"]) > 100
        gone = [one["hash"] for one in done["programs"]]
        assert gone == old[: len(gone)]
        assert done["store_bytes"] <= most < done["store_bytes"] + done["programs"][-1]["size"]
        assert _hashes(client) == set(old) - set(gone)
        both = json.loads(ctl(daemon.socket, "gc", "--over", "0", "--unused", "3d", "--json").stdout)
        assert both["programs"] == []


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ([], "give --unused AGE"),
        (["--unused", "30"], "is no age"),
        (["--unused", "-1d"], "is no age"),
        (["--over", "much"], "is no size"),
        (["--over", "9999999999T"], "is no size"),
    ],
)
def test_invalid_arguments_are_refused(socket_path: Path, arguments: list[str], why: str) -> None:
    """An invalid command line removes nothing, and the error says what is valid."""
    done = ctl(socket_path, "gc", *arguments)
    assert (done.returncode, why in done.stderr.decode()) == (2, True), done.stderr


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"unused_s": -1},
        {"unused_s": 0, "limit": 1001},
        {"over_bytes": -1},
        {"unused_s": 0, "after": "x"},
        {"unused_s": 0, "after": "nan:" + "a" * 64 + ":0"},
        {"unused_s": 0, "after": "0x1p0:" + "a" * 64 + ":" + "9" * 60},
    ],
)
def test_invalid_requests_are_refused(socket_path: Path, fields: dict[str, object]) -> None:
    """A request without a condition, or with a value out of range, is `bad_request`."""
    with talk(socket_path) as sock:
        (reply,) = ask(sock, {"type": "gc", "id": 1, "dry_run": True, **fields})
    assert (reply["type"], reply["code"]) == ("error", "bad_request"), reply


def test_other_users_are_refused(tmp_path: Path) -> None:
    """gc is refused without the right to manage, and backup for users other than root and the daemon's own user."""
    assert os.geteuid() == 0, "only root can connect as somebody else: run this test as root"
    config = f'[server]\nsocket_group = "{NOBODY}"\n'
    with configured_daemon(config) as socket:
        socket.parent.chmod(0o755)
        for arguments, says in (
            (["gc", "--unused", "0s"], b"this requires the right `manage`"),
            (["backup", "/tmp"], b"is for root and for the daemon's user"),
        ):
            command = [*ordinary_user(tmp_path), sys.executable, "-m", "promptlogctl", "--socket", str(socket)]
            done = subprocess.run([*command, *arguments], capture_output=True, timeout=60)
            assert says in done.stderr, done.stderr
            assert done.returncode == 4


def _timer(tmp_path: Path, store: Store) -> tuple[Journal, Collector]:
    journal = Journal(tmp_path / "state", JournalSettings(), b"k" * 64)
    journal.open()
    return journal, Collector(store, journal, StoreSettings(unused_days=2), own_uid=4711)


def _collect(collector: Collector) -> None:
    after = collector.next_page(None)
    while after is not None:
        after = collector.next_page(after)


def test_the_timer_removes_unused_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With store.unused_days the timer removes old programs, and the journal names the daemon's own uid."""
    monkeypatch.setattr("promptlogd.steady_clock._STEADY_S", 0.0)
    old = put_old(tmp_path / "state", [b"return %d" % number for number in range(150)], days=3)
    (young,) = put_old(tmp_path / "state", [b"return 'young'"], days=1)
    with reopened(tmp_path / "state") as store:
        journal, collector = _timer(tmp_path, store)
        with closing(journal):
            assert collector.has_timer
            _collect(collector)
            assert [row.fact.hash for row in store.list(1000, None).rows] == [young]
            journal.flush()
            entries = journal.page(Filter(uid=None), 1000, before=None, after=None)
            assert {entry.hash for entry in entries} == set(old)
            assert {(entry.uid, entry.outcome) for entry in entries} == {(4711, "collected")}


def test_the_timer_does_not_trust_a_clock_that_has_just_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that is years ahead for less than an hour, also at the start, makes the timer remove no program."""
    (hash,) = put_old(tmp_path / "state", [b"return 1"], days=1)
    wall, monotonic = time.time(), time.monotonic()
    with reopened(tmp_path / "state") as store:
        journal, collector = _timer(tmp_path, store)
        with closing(journal):
            for passed, ahead, left in (
                (0.0, 3e8, [hash]),
                (600.0, 0.0, [hash]),
                (4300.0, 3e8, [hash]),
                (7800.0, 3e8, [hash]),
                (7900.0, 3e8, []),
            ):
                monkeypatch.setattr(time, "time", lambda: wall + passed + ahead)  # noqa: B023  # called at once
                monkeypatch.setattr(time, "monotonic", lambda: monotonic + passed)  # noqa: B023
                _collect(collector)
                assert [row.fact.hash for row in store.list(1000, None).rows] == left, passed


def test_the_timer_enforces_a_smaller_quota(tmp_path: Path) -> None:
    """A store above a new quota shrinks by itself, as far as it has unused programs."""
    old = put_old(tmp_path / "state", [_source(number, 300 * _KB).encode() for number in range(5)], days=3)
    with a_daemon(tmp_path, config="[store]\nmax_mb = 1\n") as daemon, Client(daemon.socket) as client:
        until(lambda: _hashes(client) == set(old[-3:]))


def test_nothing_is_removed_by_default(tmp_path: Path) -> None:
    """With the default settings the daemon removes no programs."""
    old = put_old(tmp_path / "state", [b"return 1"], days=4000)
    with a_daemon(tmp_path) as daemon, Client(daemon.socket) as client:
        time.sleep(1.5)
        assert _hashes(client) == set(old)


def _source(number: int, size: int) -> str:
    return f"return {number} // {'x' * size}"


def _fill(client: Client, stored: list[str]) -> None:
    """Submit programs and append their hashes, until a submit is refused."""
    for number in range(2, 9):
        stored += [client.submit(_source(number, 200 * _KB)).hash]


def test_a_full_store_refuses_submits(tmp_path: Path) -> None:
    """If named and new programs fill the store, a submit is refused with figures, and stored programs still run."""
    with a_daemon(tmp_path, config="[store]\nmax_mb = 1\n") as daemon, Client(daemon.socket) as client:
        stored = [client.submit(_source(number, 200 * _KB), name=f"n{number}").hash for number in range(2)]
        with pytest.raises(RequestRefused) as refused:
            _fill(client, stored)
        assert refused.value.code == "bad_request"
        assert "the store is full" in refused.value.message
        assert refused.value.detail["limit"] == 1 << 20
        assert _hashes(client) == set(stored)
        assert client.run("@n0").value == 0
        assert client.submit(_source(0, 200 * _KB)).created is False
        client.remove(stored[-1])
        assert client.submit(_source(9, 100 * _KB)).created
        assert not list(daemon.state.glob("programs/.tmp*"))


def test_a_submit_removes_unused_programs(tmp_path: Path) -> None:
    """A submit to a full store removes only unused programs without names, the longest unused first."""
    state = tmp_path / "state"
    (named,) = put_old(state, [_source(100, 200 * _KB).encode()], days=9, name="kept")
    old = put_old(state, [_source(number, 200 * _KB).encode() for number in range(3)], days=3)
    with a_daemon(tmp_path, config="[store]\nmax_mb = 1\n") as daemon, Client(daemon.socket) as client:
        new = client.submit(_source(7, 300 * _KB)).hash
        left = _hashes(client)
        assert {named, new} <= left
        assert old[0] not in left
        assert old[2] in left
        assert {entry.hash for entry in _collected(client, 1)} == set(old) - left


def _changed_ns(path: Path) -> int:
    """Change a file's permissions, and return the time of this change."""
    path.chmod(0o600)
    return path.stat().st_ctime_ns


def test_damaged_files_are_removed_before_programs(tmp_path: Path) -> None:
    """damaged/ counts towards the quota, and a store over its quota removes files there, and no programs."""
    damaged = tmp_path / "state" / "damaged"
    old = put_old(tmp_path / "state", [b"return 1", b"return 2"], days=3)
    (damaged / "journal.sqlite3-1").write_bytes(b"x" * 2048 * _KB)
    with a_daemon(tmp_path, config="[store]\nmax_mb = 1\n") as daemon:
        until(lambda: not list(damaged.iterdir()))
        last_ns = 0
        for number in range(3):
            path = damaged / f"x{number}"
            path.write_bytes(b"x" * 300 * _KB)
            until(lambda: _changed_ns(path) > last_ns)  # noqa: B023  # it is called in this turn
            last_ns = path.stat().st_ctime_ns
        daemon.stop()
        with a_daemon(tmp_path, config="[store]\nmax_mb = 1\n") as other, Client(other.socket) as client:
            client.submit(_source(1, 300 * _KB))
            assert sorted(file.name for file in damaged.iterdir()) == ["x1", "x2"]
            assert set(old) < _hashes(client)


def test_invalid_settings_are_refused(tmp_path: Path) -> None:
    """The daemon does not start with an invalid quota or age."""
    for setting in ("max_mb = 0", "unused_days = 0", "unused_days = -1", "max_gb = 1"):
        daemon = Daemon(tmp_path, config=f"[store]\n{setting}\n")
        assert not daemon.ready
        assert daemon.process.wait(20) != 0
    assert "store.max_mb" in (tmp_path / "log").read_text()
