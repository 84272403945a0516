"""The journal without a daemon: its queue, its file and its limits."""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from promptlogd import steady_clock
from promptlogd.config import JournalSettings
from promptlogd.journal import Entry, Journal, run_entry
from promptlogd.journal import database as database_module
from promptlogd.journal import journal as journal_module
from promptlogd.journal.database import FILE, Database, TooSlow
from promptlogd.journal.filter import Filter
from promptlogd.journal.journal import BATCH_ENTRIES
from promptlogd.principal import Principal
from promptlogd.store.errors import StoreUnsafe
from promptlogd.wire.messages import JournalSums, Run
from sandbox.outcome import Cancelled, LogLine, Ok, Usage
from tests.store.limits import largest_file

KEY = b"k" * 64
ALL = Filter(uid=None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A state folder with the part that the journal needs."""
    (tmp_path / "damaged").mkdir(mode=0o700)
    return tmp_path


@pytest.fixture
def journal(folder: Path) -> Iterator[Journal]:
    """An open journal with the default settings."""
    with closing(_opened(folder)) as opened:
        yield opened


def _opened(folder: Path, **settings: object) -> Journal:
    journal = Journal(folder, JournalSettings(**settings), KEY)  # type: ignore[arg-type]
    journal.open()
    return journal


def _run(**given: object) -> Entry:
    fields = {"at": time.time(), "kind": "run", "uid": 1000, "outcome": "ok", "hash": "ab" * 32, "prompt": "hello"}
    return Entry(**{**fields, **given})  # type: ignore[arg-type]


def _outcomes(journal: Journal, wanted: Filter = ALL) -> list[str]:
    return [entry.outcome for entry in journal.page(wanted, 1000, before=None, after=None)]


def test_entries_survive_a_restart(folder: Path) -> None:
    """Entries noted before `close` are read by the next journal of the folder, newest first."""
    with closing(_opened(folder)) as journal:
        journal.note(_run(outcome="ok"))
        journal.note(_run(outcome="cpu_limit"))
    with closing(_opened(folder)) as journal:
        assert _outcomes(journal) == ["cpu_limit", "ok"]


def test_other_users_can_not_read_the_files(folder: Path) -> None:
    """The journal's files have mode 0600, even if the umask lets everyone read new files."""
    before = os.umask(0o022)
    try:
        with closing(_opened(folder)) as journal:
            journal.note(_run())
            journal.flush()
            modes = {path.name: path.stat().st_mode & 0o777 for path in folder.glob("journal.sqlite3*")}
    finally:
        os.umask(before)
    assert set(modes.values()) == {0o600}, modes
    assert len(modes) > 1


def test_only_a_keyed_digest_of_a_prompt_is_stored(folder: Path, journal: Journal) -> None:
    """Equal prompts have equal digests, another key gives other digests, and the file does not contain the prompt."""
    for prompt in ("a secret prompt", "a secret prompt", "another"):
        journal.note(_run(prompt=prompt))
    journal.flush()
    digests = [entry.prompt_digest for entry in journal.page(ALL, 10, before=None, after=None)]
    assert digests[1] == digests[2] != digests[0]
    assert not any(b"secret" in path.read_bytes() for path in folder.glob(f"{FILE}*"))
    (folder / "other").mkdir()
    (folder / "other/damaged").mkdir(mode=0o700)
    other = Journal(folder / "other", JournalSettings(), b"o" * 64)
    other.open()
    with closing(other):
        other.note(_run(prompt="a secret prompt"))
        other.flush()
        assert other.page(ALL, 1, before=None, after=None)[0].prompt_digest != digests[1]


def test_texts_are_stored_if_configured(folder: Path) -> None:
    """Each text is cut at the limit between two characters, and only a request for one entry returns the texts."""
    with closing(_opened(folder, keep=["prompt", "error", "console", "result"], keep_kb=1)) as journal:
        journal.note(
            _run(prompt="a" + "é" * 2000, error="E: no", console=[("log", "a"), ("error", "b")], result=b"[1]")
        )
        journal.flush()
        (listed,) = journal.page(ALL, 10, before=None, after=None)
        assert listed.content is None
        entry = journal.entry(ALL, listed.id)
        assert entry is not None
        assert entry.content == {
            "prompt": "a" + "é" * 511 + "…", "error": "E: no", "console": "log: a\nerror: b", "result": "[1]",
        }  # fmt: skip
        assert journal.entry(ALL, listed.id + 1) is None


def test_a_flush_pauses_between_a_few_entries(journal: Journal) -> None:
    """The thread that writes lets others run after every few entries, which are then stored. After an error, only the
    entries that were not stored are counted as lost."""
    stored: list[int] = []

    def pause() -> None:
        stored.append(len(_outcomes(journal)) // BATCH_ENTRIES)
        if len(stored) == 9:
            raise sqlite3.OperationalError("the disk is full")

    for _ in range(2 * BATCH_ENTRIES):
        journal.note(_run())
    journal.flush(pause)
    assert stored == [0, 0, 1, 2]  # two pauses while the rows are made, and two while they are written
    for _ in range(3 * BATCH_ENTRIES):
        journal.note(_run())
    journal.flush(pause)
    assert stored[4:] == [2, 2, 2, 3, 4]
    counts = journal.counts()
    assert counts is not None
    assert counts.lost == BATCH_ENTRIES


def test_filters(journal: Journal) -> None:
    """Entries can be filtered by uid, hash prefix, failure and time, and paged in both directions."""
    now = time.time()
    journal.note(_run(uid=1, hash="aa" * 32, at=now - 300))
    journal.note(_run(uid=2, hash="ab" * 32, outcome="exception", at=now - 200))
    journal.note(_run(uid=2, kind="submit", outcome="kept", hash="ab" * 32, at=now - 100))
    journal.note_refusal(2, None, "busy")
    journal.flush()
    assert _outcomes(journal) == ["busy", "kept", "exception", "ok"]
    assert _outcomes(journal, Filter(uid=1)) == ["ok"]
    assert _outcomes(journal, Filter(uid=None, hash="abab")) == ["kept", "exception"]
    assert _outcomes(journal, Filter(uid=None, hash="a")) == ["kept", "exception", "ok"]
    assert _outcomes(journal, Filter(uid=None, failed=True)) == ["busy", "exception"]
    assert _outcomes(journal, Filter(uid=None, since=now - 200)) == ["busy", "kept", "exception"]
    assert [entry.id for entry in journal.page(ALL, 2, before=4, after=None)] == [3, 2]
    assert [entry.id for entry in journal.page(ALL, 2, before=None, after=1)] == [2, 3]


def test_refusals_within_a_second_are_one_entry(journal: Journal) -> None:
    """Ten thousand refusals of one client within a second are stored as one row."""
    for _ in range(10_000):
        journal.note_refusal(7, "a tenant", "busy")
    journal.flush()
    (entry,) = journal.page(ALL, 10, before=None, after=None)
    assert (entry.kind, entry.uid, entry.tenant, entry.count) == ("refused", 7, "a tenant", 10_000)


def test_the_queue_is_limited(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Entries beyond the limit of the queue are counted as lost; beyond its limit in bytes they lose their texts."""
    monkeypatch.setattr(journal_module, "_QUEUE_ENTRIES", 3)
    monkeypatch.setattr(journal_module, "_QUEUE_BYTES", 10)
    for _ in range(5):
        journal.note(_run(prompt="12345678"))
    journal.flush()
    entries = journal.page(ALL, 10, before=None, after=None)
    assert [entry.prompt_bytes for entry in entries] == [None, None, 8]
    assert "2 entries were lost" in caplog.text
    counts = journal.counts()
    assert counts is not None
    assert (counts.rows, counts.waiting, counts.lost) == (3, 0, 2)


def test_refusals_beyond_the_limit_are_counted(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refusals above the limit of distinct kinds are lost, and `counts` has their number before and after a flush."""
    monkeypatch.setattr(journal_module, "_QUEUE_ENTRIES", 3)
    for uid in range(5):
        journal.note_refusal(uid, None, "busy")
    for _ in range(2):
        counts = journal.counts()
        assert counts is not None
        assert counts.lost == 2
        journal.flush()


def test_sums(journal: Journal) -> None:
    """Runs are summed by program, the most expensive first; submits do not count."""
    for cpu_ms, outcome in ((1.0, "ok"), (3.0, "exception")):
        journal.note(_run(hash="aa" * 32, engine="quickjs", cpu_ms=cpu_ms, wall_ms=2 * cpu_ms, outcome=outcome))
    journal.note(_run(hash="bb" * 32, engine="deno", cpu_ms=20.0, wall_ms=30.0, memory_bytes=5))
    journal.note(_run(hash="bb" * 32, kind="submit", outcome="kept"))
    journal.flush()
    first, second = journal.sums(ALL)
    assert (first.hash, first.engine, first.runs, first.memory_max_bytes) == ("bb" * 32, "deno", 1, 5)
    assert (second.runs, second.failed, second.cpu_ms, second.cpu_max_ms, second.wall_mean_ms) == (2, 1, 4.0, 3.0, 4.0)


def test_sums_of_runs_without_an_engine(journal: Journal) -> None:
    """Runs that were cancelled before their program was found are summed, and a client accepts the reply."""
    journal.note(_run(hash=None, engine=None, outcome="cancelled", cpu_ms=0.0, wall_ms=0.0, memory_bytes=0))
    journal.flush()
    reply = JournalSums(id=1, programs=journal.sums(ALL))
    (row,) = msgspec.msgpack.decode(msgspec.msgpack.encode(reply), type=JournalSums).programs
    assert (row.hash, row.engine, row.failed) == ("", "", 1)


def test_old_entries_are_removed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries older than the maximum age are removed, however many there are."""
    monkeypatch.setattr(steady_clock, "_STEADY_S", 0.0)
    with closing(_opened(folder, max_age_days=1.0)) as journal:
        for _ in range(500):
            journal.note(_run(at=time.time() - 2 * 86400))
        journal.note(_run(outcome="new"))
        journal.flush()
        assert _outcomes(journal) == ["new"]


def test_a_clock_that_is_ahead_for_a_minute(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that is years ahead for less than an hour removes no entry; after an hour, old entries are removed."""
    wall, monotonic = time.time(), time.monotonic()
    with closing(_opened(folder, max_age_days=1.0)) as journal:
        journal.note(_run(outcome="old", at=wall - 90_000))
        journal.note(_run(outcome="new"))
        for passed, ahead, left in (
            (0.0, 3e8, ["new", "old"]),  # at the start, no clock is trusted
            (61.0, 0.0, ["new", "old"]),
            (3500.0, 0.0, ["new", "old"]),
            (3700.0, 0.0, ["new"]),
            (3800.0, 3e8, ["new"]),
            (7300.0, 3e8, ["new"]),
            (7500.0, 3e8, []),
        ):
            monkeypatch.setattr(time, "time", lambda: wall + passed + ahead)  # noqa: B023  # called at once
            monkeypatch.setattr(time, "monotonic", lambda: monotonic + passed)  # noqa: B023
            journal.flush()
            assert _outcomes(journal) == left, passed


@pytest.mark.parametrize("settings", [{"max_rows": 1000}, {"max_mb": 1}], ids=["rows", "bytes"])
def test_a_flood_displaces_only_its_own_entries(folder: Path, settings: dict[str, int]) -> None:
    """Beyond the size limit, the oldest entries of the uid with the most entries are removed, and no others."""
    with closing(_opened(folder, keep=["error"], **settings)) as journal:
        for _ in range(20):
            journal.note(_run(uid=1, outcome="quiet"))
        for _ in range(5000):
            journal.note(_run(uid=2, outcome="flood", error="x" * 500))
        journal.flush()
        outcomes = _outcomes(journal, Filter(uid=1))
        assert outcomes == ["quiet"] * 20
        left = len(journal.page(Filter(uid=2), 10_000, before=None, after=None))
        assert 0 < left <= (980 if "max_rows" in settings else 2500)


def test_the_file_stays_within_its_limit(folder: Path) -> None:
    """The file does not grow beyond the limit under a flood within a minute, and shrinks if the limit is lowered."""
    with closing(_opened(folder, keep=["error"], max_mb=4)) as journal:
        for _ in range(4):
            for _ in range(300):
                journal.note(_run(error="x" * 10_000))
            journal.flush()
            assert (folder / FILE).stat().st_size <= 5 << 20
            assert len(_outcomes(journal)) > 200
    with closing(_opened(folder, max_mb=1)) as journal:
        for _ in range(2):
            journal.flush()
    assert (folder / FILE).stat().st_size <= 1 << 20


def _without_auto_vacuum(folder: Path) -> None:
    """Change the journal's file to one of an earlier version."""
    with closing(sqlite3.connect(folder / FILE, isolation_level=None)) as db:
        db.execute("PRAGMA auto_vacuum = NONE")
        db.execute("VACUUM")
        assert db.execute("PRAGMA auto_vacuum").fetchone() == (0,)


def test_a_file_of_an_earlier_version_shrinks_too(folder: Path) -> None:
    """A file without auto_vacuum is rewritten when it exceeds the limit. Entries within the limit stay."""
    with closing(_opened(folder, keep=["error"], max_mb=4)) as journal:
        for number in range(300):
            journal.note(_run(name=f"name{number}", error="x" * 10_000))
    _without_auto_vacuum(folder)
    assert (folder / FILE).stat().st_size > 2 << 20
    with closing(_opened(folder, max_mb=1)) as journal:
        journal.flush()
        journal.note(_run(outcome="new"))
        journal.flush()
        entries = journal.page(ALL, 1000, before=None, after=None)
        assert entries[0].outcome == "new"
        assert [entry.name for entry in entries[1:]] == [
            f"name{number}" for number in range(299, 300 - len(entries), -1)
        ]
        assert len(entries) > 50
    assert (folder / FILE).stat().st_size <= 1 << 20
    with closing(sqlite3.connect(folder / FILE)) as db:
        assert db.execute("PRAGMA auto_vacuum").fetchone() == (2,)
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_file_that_can_not_be_rewritten(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A file with too many entries is not rewritten. If the disk has no space for a rewrite, the log says so once, and
    the journal still records entries."""
    with closing(_opened(folder, keep=["error"], max_mb=4)) as journal:
        for _ in range(300):
            journal.note(_run(error="x" * 10_000))
    _without_auto_vacuum(folder)
    with monkeypatch.context() as patch, closing(_opened(folder, max_mb=1)) as journal:
        patch.setattr(database_module, "_REBUILD_BYTES", 1000)
        journal.flush()
    assert (folder / FILE).stat().st_size > 2 << 20
    with closing(_opened(folder, max_mb=1)) as journal:
        with largest_file(700_000):
            for _ in range(3):
                journal.note(_run(outcome="new"))
                journal.flush()
        assert _outcomes(journal)[:3] == ["new"] * 3
        counts = journal.counts()
        assert counts is not None
        assert counts.lost == 0
    (record,) = caplog.records
    assert "can't be made smaller" in record.message


def test_a_damaged_file_is_set_aside(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file that is not a database is moved to `damaged/`, and a new journal is created."""
    (folder / FILE).write_bytes(b"this is no database" * 1000)
    with closing(_opened(folder)) as journal:
        journal.note(_run())
        journal.flush()
        assert _outcomes(journal) == ["ok"]
    assert "is moved to damaged/" in caplog.text
    assert len(list((folder / "damaged").iterdir())) == 1


def test_damage_inside_the_file(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Damage that is found later is set aside too; entries that could not be written are lost, and the log says so."""
    with closing(_opened(folder)) as journal:
        for _ in range(2000):
            journal.note(_run())
    data = bytearray((folder / FILE).read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    (folder / FILE).write_bytes(data)
    with closing(_opened(folder)) as journal:
        journal.note(_run())
        journal.flush()
        journal.note(_run(outcome="later"))
        journal.flush()
        assert _outcomes(journal) == ["later"]
    assert "can't be written" in caplog.text


@pytest.mark.parametrize(
    "script",
    [
        "CREATE TABLE other (x)",
        "CREATE TABLE entries (id, text)",
        "CREATE TABLE entries (id, text); PRAGMA user_version = 1",
        "CREATE VIEW entries AS SELECT 1; PRAGMA user_version = 1",
    ],
    ids=["other", "version 0", "version 1", "view"],
)
def test_a_database_of_another_program_is_set_aside(folder: Path, script: str) -> None:
    """SQLite files with other tables or columns are moved to `damaged/` unchanged, and a new journal is created."""
    with closing(sqlite3.connect(folder / FILE)) as db:
        db.executescript(script)
    before = (folder / FILE).read_bytes()
    with closing(_opened(folder)) as journal:
        journal.note(_run())
        journal.flush()
        assert _outcomes(journal) == ["ok"]
    (aside,) = (folder / "damaged").iterdir()
    assert aside.read_bytes() == before


def _overwritten(folder: Path, old: bytes, new: bytes) -> None:
    """Replace bytes of the journal's file where they first occur."""
    data = (folder / FILE).read_bytes()
    assert old in data
    (folder / FILE).write_bytes(data.replace(old, new, 1))


def test_damage_that_a_query_finds(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """If only a query finds the damage, the next flush sets the file aside, and new entries can be read."""
    with closing(_opened(folder)) as journal:
        for number in range(2000):
            journal.note(_run(name=f"name{number}"))
    size = (folder / FILE).stat().st_size
    at = (folder / FILE).read_bytes().index(b"name100") // 4096 * 4096  # a page of the table
    with (folder / FILE).open("r+b") as file:
        file.seek(at)
        file.write(bytes(4096))
    with closing(_opened(folder)) as journal:
        with pytest.raises(sqlite3.DatabaseError):
            journal.page(ALL, 2000, before=None, after=None)
        journal.note(_run(outcome="later"))
        journal.flush()
        assert _outcomes(journal) == ["later"]
    assert "is moved to damaged/" in caplog.text
    assert max(path.stat().st_size for path in (folder / "damaged").iterdir()) == size


def test_a_damaged_entry_is_left_out(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Entries with values that no journal writes are left out of lists and sums, and the log says so."""
    with closing(_opened(folder)) as journal:
        for name in ("first", "broken", "invalid", "last"):
            journal.note(_run(name=name, cpu_ms=1.0, wall_ms=1.0, memory_bytes=1, engine="quickjs"))
    _overwritten(folder, b"broken", b"brok\xff\xfe")
    with closing(sqlite3.connect(folder / FILE)) as db:
        db.execute("UPDATE entries SET uid = 'x' WHERE name = 'invalid'")
        db.commit()
    with closing(_opened(folder)) as journal:
        names = [entry.name for entry in journal.page(ALL, 3, before=None, after=None)]
        assert names == ["last", "brok\ufffd\ufffd", "first"]
        assert journal.entry(ALL, 3) is None
    assert "a row of the journal is damaged" in caplog.text


def test_a_newer_version_is_set_aside(folder: Path) -> None:
    """A file of an unknown version is not written to."""
    with closing(sqlite3.connect(folder / FILE)) as db:
        db.execute("PRAGMA user_version = 99")
        db.commit()
    with closing(_opened(folder)) as journal:
        journal.note(_run())
        journal.flush()
        assert _outcomes(journal) == ["ok"]
    assert len(list((folder / "damaged").iterdir())) == 1


def test_a_symbolic_link_is_refused(folder: Path) -> None:
    """A symbolic link in place of the file is refused, because the daemon would write to a file of another's choice."""
    (folder / "elsewhere").touch()
    (folder / FILE).symlink_to(folder / "elsewhere")
    with pytest.raises(StoreUnsafe, match="is a symbolic link"):
        _opened(folder)


def test_a_failed_write_loses_only_its_entries(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A failed write is logged once a minute, and later entries are written."""

    def refuse(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(Database, "append", refuse)
        for _ in range(3):
            journal.note(_run())
            journal.flush()
    journal.note(_run(outcome="later"))
    journal.flush()
    assert _outcomes(journal) == ["later"]
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


def test_a_disk_that_was_full_at_the_start(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The journal opens again once the disk has room, and counts the entries that were lost until then."""

    def refuse(path: Path) -> Database:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(journal_module, "Database", refuse)
        journal = _opened(folder)
        journal.note(_run())
        journal.flush()
    with closing(journal):
        journal.note(_run(outcome="later"))
        journal.flush()
        assert _outcomes(journal) == ["later"]
        counts = journal.counts()
        assert counts is not None
        assert counts.lost == 1
    assert "can't be opened (database or disk is full): 0 entries were lost since the start" in caplog.text


def test_the_log_says_how_many_entries_are_lost(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """While the file can't be opened, the lost entries are counted; the log has their number at most once a minute."""

    def refuse(path: Path) -> Database:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(journal_module, "Database", refuse)
    journal = _opened(folder)
    for _ in range(3):
        journal.note(_run())
        journal.flush()
    counts = journal.counts()
    assert counts is not None
    assert (counts.rows, counts.lost) == (0, 3)
    assert len(caplog.records) == 1
    with pytest.raises(sqlite3.OperationalError, match="can't be opened"):
        _outcomes(journal)
    monkeypatch.setattr(journal_module, "_LOG_AGAIN_S", 0.0)
    journal.flush()
    assert "3 entries were lost since the start" in caplog.text
    monkeypatch.setattr(journal_module, "_LOG_AGAIN_S", 60.0)
    journal.note(_run())
    journal.close()
    assert "4 entries were lost since the start" in caplog.text


def test_only_the_beginning_of_a_text_is_copied() -> None:
    """Of a large result and of many console lines, no more is copied than will be stored."""
    lines = [LogLine(level="log", text="x" * 100) for _ in range(32_000)]
    entry = run_entry(
        Principal(connection=1, uid=1, process=None), Run(id=1, source="return 1"), hash="ab" * 32, engine="quickjs",
        outcome=Ok(value=msgspec.Raw(b"1" * 4_000_000)), usage=Usage(cpu_ms=1, wall_ms=1, peak_memory_bytes=1),
        lines=lines, line_count=len(lines), keep=("result", "console"), keep_bytes=1024,
    )  # fmt: skip
    assert entry.held_bytes < 4096
    assert entry.result_bytes == 4_000_000


@pytest.mark.parametrize("reference", ["@\x1b]0;x\x07", "@a\nb", "@a\tb", "@", "@" + "a" * 65, "ab" * 32])
def test_an_invalid_name_is_not_stored(reference: str) -> None:
    """A run that is cancelled before its program is looked up stores no name that is invalid."""
    entry = run_entry(
        Principal(connection=1, uid=1, process=None), Run(id=1, hash=reference), hash=reference, engine=None,
        outcome=Cancelled(), usage=Usage(cpu_ms=0, wall_ms=0, peak_memory_bytes=0), lines=[], line_count=0,
        keep=(), keep_bytes=0,
    )  # fmt: skip
    assert entry.name is None


def test_queries_have_a_time_limit(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """A query that takes too long ends with an error, and the next query is answered."""
    for _ in range(3000):
        journal.note(_run())
    journal.flush()
    monkeypatch.setattr(database_module, "_STEPS", 100)
    with monkeypatch.context() as patch:
        patch.setattr(database_module, "_QUERY_S", -1.0)
        with pytest.raises(TooSlow, match="takes more than"):
            journal.sums(ALL)
    assert journal.sums(ALL)[0].runs == 3000


@pytest.mark.parametrize("wanted", [{}, {"uid": 1000}, {"failed": True}, {"hash": "ab" * 32}], ids=str)
def test_queries_of_recent_entries_read_no_others(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, wanted: dict[str, object]
) -> None:
    """With `since`, a query takes the same time for any number of older entries, whichever filter it has."""
    now = time.time()
    for number in range(3000):
        journal.note(_run(at=now - 100 + number / 100))
    journal.note(_run(at=now + 500, outcome="exception"))  # the clock was ahead here, so the next entry is earlier
    journal.note(_run(at=now, outcome="exception"))
    journal.flush()
    monkeypatch.setattr(database_module, "_STEPS", 2000)
    monkeypatch.setattr(database_module, "_QUERY_S", -1.0)  # so that a query ends after 2000 steps
    recent = Filter(**{"uid": None, "since": now - 1, **wanted})  # type: ignore[arg-type]
    assert _outcomes(journal, recent) == ["exception", "exception"]
    if "failed" not in wanted:
        assert [row.runs for row in journal.sums(recent)] == [2]


def test_a_disabled_journal(folder: Path) -> None:
    """With `enabled = false` there is no file and no entry."""
    with closing(_opened(folder, enabled=False)) as journal:
        journal.note(_run())
        journal.note_refusal(1, None, "busy")
        journal.flush()
        assert _outcomes(journal) == []
        assert journal.sums(ALL) == []
    assert not list(folder.glob(f"{FILE}*"))
