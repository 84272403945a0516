"""Programs of several files are stored as submitted, verified file by file, and stay within their folder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from promptlogd.store import Damaged, NotFound, Store, StoreFailed, Submission, Unstorable
from sandbox.program import Program
from tests.store.programs import ARTIFACT, BUILD, text
from tests.store.reopened import reopened

_FILES = {
    "main.ts": b"import { a } from './lib/a.ts'\nexport default () => a\n",
    "lib/a.ts": b"export const a: number = 1\r\n",
    "lib/deep/er/data.json": b"{}",
    "lib/meta.json": b"not the store's",
    "source": b"",
    "\u00fc \u4e2d \"'$(x).ts": b"\xff\0",
}
_HASH = hashlib.sha256(b"a manifest").hexdigest()


def _program(files: dict[str, bytes] | None = None, entry: str = "main.ts", hash: str = _HASH) -> Program:
    return Program(hash=hash, files=files or _FILES, entry=entry, language="typescript", engine="deno")


def _keep(store: Store, program: Program, uid: int = 7, tenant: str | None = None) -> tuple[str, bool]:
    staged = store.stage(program, uid=uid, tenant=tenant)
    return store.keep(Submission(staged=staged, artifact=ARTIFACT, build=BUILD, name="x"))[:2]


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state folder with one program of several files."""
    with reopened(tmp_path / "state") as store:
        assert _keep(store, _program(), tenant="a tenant") == (_HASH, True)
    return tmp_path / "state"


@pytest.fixture
def store(state: Path) -> Iterator[Store]:
    """An open store of that folder."""
    with reopened(state) as store:
        yield store


def _object(state: Path) -> Path:
    return state / "programs" / _HASH[:2] / _HASH[2:]


def _hidden(store: Store) -> list[Path]:
    return list((store.folder / "programs").glob(".[ts]*-*"))


def test_several_files_are_returned_unchanged(state: Path) -> None:
    """All files, the entry, engine, language and owner are as submitted, also after a restart and without SQLite."""
    for turn in range(2):
        with reopened(state) as store:
            assert store.load(store.resolve("@x")) == _program()
            assert store.artifact(_HASH, "deno", BUILD) == ARTIFACT
            fact = store.show(_HASH).fact
            assert (fact.size, fact.created_by, fact.engine) == (sum(map(len, _FILES.values())), 7, "deno")
            assert _keep(store, _program(), uid=8) == (_HASH, False)
            assert not _hidden(store)
        if not turn:
            (state / "facts.sqlite3").unlink()
    assert b'"owner":{"uid":7,"tenant":"a tenant"}' in (_object(state) / "meta.json").read_bytes()
    assert (_object(state) / "files/lib/a.ts").read_bytes() == _FILES["lib/a.ts"]


def test_a_single_file_keeps_its_path(store: Store) -> None:
    """A single file keeps its path if its path is not the default, or if the hash is not that of its text."""
    source = b"return 1"
    own = Program.of_text(source, language="javascript", engine="quickjs")
    moved = Program(hash="1" * 64, files={"a/b.mjs": source}, entry="a/b.mjs", language="javascript", engine="quickjs")
    other = Program(hash="2" * 64, files=own.files, entry=own.entry, language="javascript", engine="quickjs")
    for program in (own, moved, other):
        assert _keep(store, program) == (program.hash, True)
        assert store.load(program.hash) == program


def test_a_removal_removes_all_files(store: Store, state: Path) -> None:
    """A removal leaves no file of the program."""
    assert store.remove(_HASH) == ["x"]
    with pytest.raises(NotFound):
        store.load(_HASH)
    assert not list(state.glob("programs/*/*"))
    assert not _hidden(store)


def test_staged_files_are_discarded(store: Store) -> None:
    """Discarding a staged program of several files leaves no file."""
    staged = store.stage(_program(hash="3" * 64), uid=7)
    assert _hidden(store)
    store.discard(staged)
    assert not _hidden(store)


def test_a_cached_program_is_read_again_after_a_change(store: Store, state: Path) -> None:
    """A program comes from memory while all its files are unchanged, and a change to any of them is detected."""
    assert store.load(_HASH) is store.load(_HASH)
    (_object(state) / "files/lib/deep/er/data.json").write_bytes(b"[]")
    with pytest.raises(Damaged, match="do not match their hash"):
        store.load(_HASH)


def _flip(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def _grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"x")


_DAMAGE: list[tuple[str, Callable[[Path], object]]] = [
    ("files/main.ts", _flip),
    ("files/lib/deep/er/data.json", Path.unlink),
    ("files/lib/a.ts", _grow),
    ("files/source", _grow),
    ("meta.json", _flip),
    ("meta.json", Path.unlink),
]


@pytest.mark.parametrize(("what", "damage"), _DAMAGE)
def test_damage_is_set_aside(store: Store, state: Path, what: str, damage: Callable[[Path], object]) -> None:
    """Damage to any file or to the metadata is reported and set aside, and a new submit repairs the program."""
    damage(_object(state) / what)
    with pytest.raises(Damaged):
        store.load(_HASH)
    assert [path.name.split("-")[0] for path in (state / "damaged").iterdir()] == [_HASH]
    with pytest.raises(NotFound):
        store.resolve("@x")
    assert _keep(store, _program()) == (_HASH, True)
    assert store.load(_HASH) == _program()


@pytest.mark.parametrize(("what", "damage"), _DAMAGE)
def test_a_submit_replaces_damage(store: Store, state: Path, what: str, damage: Callable[[Path], object]) -> None:
    """A submit that finds damage keeps the program's name, its owner and, if it is known, its tenant."""
    damage(_object(state) / what)
    assert _keep(store, _program(), uid=8, tenant="another") == (_HASH, True)
    assert store.load(store.resolve("@x")) == _program()
    assert store.show(_HASH).fact.created_by == 7
    owner = b'{"uid":7}' if what == "meta.json" else b'{"uid":7,"tenant":"a tenant"}'
    assert b'"owner":' + owner in (_object(state) / "meta.json").read_bytes()
    assert len(list((state / "damaged").iterdir())) == 1


@pytest.mark.parametrize("what", ["files", "files/lib", "files/lib/deep/er/data.json", "meta.json"])
def test_a_link_is_not_followed(store: Store, state: Path, tmp_path: Path, what: str) -> None:
    """A link in place of a folder or a file makes the load fail and moves nothing; once repaired, nothing is lost."""
    path = _object(state) / what
    path.rename(tmp_path / "away")
    path.symlink_to(tmp_path / "away")
    for _ in range(2):
        with pytest.raises(StoreFailed, match="Submit the program again"):
            store.load(_HASH)
    assert not list((state / "damaged").iterdir())
    path.unlink()
    (tmp_path / "away").rename(path)
    assert store.load(store.resolve("@x")) == _program()


@pytest.mark.parametrize("lost", ["facts.sqlite3", None])
def test_damaged_metadata_at_a_start(state: Path, lost: str | None) -> None:
    """A start with unreadable metadata succeeds, and the program is not served."""
    _flip(_object(state) / "meta.json")
    if lost:
        (state / lost).unlink()
    with reopened(state) as store, pytest.raises(Damaged):
        store.load(_HASH)


_LONG = "d/" * 15 + "f"


@pytest.mark.parametrize(
    "path",
    [
        *("", "/", "/etc/passwd", "a/", "/a", "a//b", ".", "..", "../a", "a/..", "a/../b", "a/./b", "./a"),
        *("a\\b", "a\0b", "a\nb", "\x7f", "\u202e", "\ud800", "x" * 256, "\u00e4" * 128, "d/" + _LONG),
    ],
)
def test_invalid_paths(store: Store, path: str) -> None:
    """An absolute, ambiguous, unprintable, or too long path, or one that leaves the folder, is refused."""
    for files in ({path: b""}, {"main.ts": b"", path: b""}):
        with pytest.raises(Unstorable, match="path"):
            store.stage(_program(files, entry=next(iter(files)), hash="4" * 64), uid=7)
    assert not _hidden(store)


@pytest.mark.parametrize("paths", [["a", "a/b"], ["a/b/c", "a/b"], ["x/y", "x-y", "x", "z"]])
def test_a_path_that_is_both_file_and_folder(store: Store, paths: list[str]) -> None:
    """A path that is both a file and a folder is refused, in any order of the files."""
    for order in (paths, paths[::-1]):
        with pytest.raises(ValueError, match="is both a file and a folder"):
            store.stage(_program(dict.fromkeys(order, b""), entry=order[0], hash="4" * 64), uid=7)
    assert not _hidden(store)


def test_limits_of_files_and_paths(store: Store) -> None:
    """The maximum number of files and the longest paths are accepted, and anything above the limits is refused."""
    most = {f"{number}": b"%d" % number for number in range(254)} | {_LONG: b"", "x" * 255: b"x"}
    program = _program(most, entry=_LONG, hash="5" * 64)
    assert _keep(store, program) == (program.hash, True)
    assert store.load(program.hash) == program
    with pytest.raises(Unstorable, match="257 files, the maximum is 256"):
        store.stage(_program(most | {"more": b""}, entry="more", hash="6" * 64), uid=7)
    with pytest.raises(Unstorable, match="'no' is not a file"):
        store.stage(_program(entry="no", hash="6" * 64), uid=7)
    large = bytes(40 << 20)
    with pytest.raises(Unstorable, match="bytes, the maximum is 67108864"):
        store.stage(_program({"a": large, "b": large}, entry="a", hash="6" * 64), uid=7)
    for tenant in ("", "x" * 256, "a\nb", "\ud800"):
        with pytest.raises(Unstorable, match="tenant"):
            store.stage(_program(hash="6" * 64), uid=7, tenant=tenant)
    for hash in ("", "6" * 63, "G" * 64, "../" * 21 + "a"):
        with pytest.raises(Unstorable, match="is not a hash"):
            store.stage(_program(hash=hash), uid=7)
    assert not _hidden(store)


def test_number_of_fsyncs_of_a_submit(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text needs three fsyncs: source, metadata and shelf. Several files need one more each, and one per folder."""
    waited: list[int] = []
    fsync = os.fsync

    def counted(descriptor: int) -> None:
        waited.append(descriptor)
        fsync(descriptor)

    store.make_spares()
    monkeypatch.setattr(os, "fsync", counted)
    staged = store.stage(text(b"return 1"), uid=7)
    store.keep(Submission(staged=staged, artifact=ARTIFACT, build=BUILD))
    assert len(waited) == 3
    waited.clear()
    staged = store.stage(_program(hash="7" * 64), uid=7)
    store.keep(Submission(staged=staged, artifact=ARTIFACT, build=BUILD))
    # Files, their folders `files`, `lib`, `lib/deep` and `lib/deep/er`, metadata, its folder, and the shelf.
    assert len(waited) == len(_FILES) + 4 + 3
