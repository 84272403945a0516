"""Artifacts are stored for one engine and build, and are never returned if the file or its seal is wrong."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from promptlogd.store import Store, Submission, Unstorable
from promptlogd.store.artifacts import MOST_BYTES
from sandbox.program import Artifact, Form
from tests.store.programs import ARTIFACT, BUILD, submit, text
from tests.store.reopened import reopened

_CODE = Artifact(form=Form.MODULE, language="javascript", code=b"export default 1\n\0\n")


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state folder that does not exist yet."""
    return tmp_path / "state"


@pytest.fixture
def store(state: Path) -> Iterator[Store]:
    """An open store."""
    with reopened(state) as store:
        yield store


def _object(state: Path, hash: str) -> Path:
    return state / "programs" / hash[:2] / hash[2:]


def _names(state: Path, hash: str) -> list[str]:
    return sorted(path.name for path in _object(state, hash).iterdir())


@pytest.mark.parametrize(
    "artifact",
    [
        ARTIFACT,
        _CODE,
        Artifact(form=Form.BODY, language="javascript", code=b""),
        Artifact(form=Form.MODULE, language="typescript"),
    ],
)
def test_an_artifact_is_returned_unchanged(state: Path, artifact: Artifact) -> None:
    """An artifact that was stored with a program or later is returned unchanged, also after a restart."""
    with reopened(state) as store:
        first, _ = submit(store, b"1", artifact=artifact)
        second, _ = submit(store, b"2")
        store.put_artifact(second, "quickjs", BUILD, artifact)
        for _ in range(2):
            assert [store.artifact(hash, "quickjs", BUILD) for hash in (first, second)] == [artifact] * 2
    with reopened(state) as store:
        assert [store.artifact(hash, "quickjs", BUILD) for hash in (first, second)] == [artifact] * 2


def test_an_artifact_without_code_has_only_a_header(store: Store, state: Path) -> None:
    """An artifact without code does not store the program's text a second time."""
    hash, _ = submit(store, b"x" * 100_000)
    assert _names(state, hash) == ["artifact.quickjs.1", "meta.json", "source"]
    assert (_object(state, hash) / "artifact.quickjs.1").stat().st_size < 300


def test_missing_artifacts(store: Store, state: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An artifact of another build or engine, of an unknown program, or that was removed is None without a log line."""
    hash, _ = submit(store, b"1")
    assert store.artifact(hash, "quickjs", "2") is None
    assert store.artifact(hash, "deno", BUILD) is None
    assert store.artifact("0" * 64, "quickjs", BUILD) is None
    store.put_artifact("0" * 64, "quickjs", BUILD, ARTIFACT)
    assert store.artifact("0" * 64, "quickjs", BUILD) is None
    (_object(state, hash) / "artifact.quickjs.1").unlink()
    assert store.artifact(hash, "quickjs", BUILD) is None
    assert caplog.records == []


@pytest.mark.parametrize("damage", [b"", b"junk", b'{"form":"body"}\n', b"\n", bytes(5000)])
def test_a_damaged_artifact(store: Store, state: Path, damage: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """A damaged artifact is not returned, the damage is logged, and a new artifact replaces it."""
    hash, _ = submit(store, b"1", artifact=_CODE)
    (_object(state, hash) / "artifact.quickjs.1").write_bytes(damage)
    assert store.artifact(hash, "quickjs", BUILD) is None
    assert f"artifact.quickjs.1 of program {hash} is made again" in caplog.text
    store.put_artifact(hash, "quickjs", BUILD, ARTIFACT)
    assert store.artifact(hash, "quickjs", BUILD) == ARTIFACT


def test_every_byte_is_sealed(store: Store, state: Path) -> None:
    """An artifact is not returned if any byte of its file has changed."""
    hash, _ = submit(store, b"1", artifact=_CODE)
    path = _object(state, hash) / "artifact.quickjs.1"
    good = path.read_bytes()
    for index in range(len(good)):
        path.write_bytes(good[:index] + bytes([good[index] ^ 1]) + good[index + 1 :])
        assert store.artifact(hash, "quickjs", BUILD) is None
    for other in (good[:-1], good + b"\n"):
        path.write_bytes(other)
        assert store.artifact(hash, "quickjs", BUILD) is None
    path.write_bytes(good)
    assert store.artifact(hash, "quickjs", BUILD) == _CODE


def test_an_artifact_from_elsewhere(store: Store, state: Path, tmp_path: Path) -> None:
    """An artifact that was copied from another program, engine, build or state folder does not verify."""
    hash, _ = submit(store, b"1", artifact=_CODE)
    other, _ = submit(store, b"2")
    path = _object(state, hash) / "artifact.quickjs.1"
    for place in ("artifact.quickjs.2", "artifact.deno.1"):
        shutil.copy(path, _object(state, hash) / place)
    shutil.copy(path, _object(state, other) / path.name)
    assert store.artifact(hash, "quickjs", "2") is None
    assert store.artifact(hash, "deno", "1") is None
    assert store.artifact(other, "quickjs", "1") is None
    with reopened(tmp_path / "elsewhere") as elsewhere:
        submit(elsewhere, b"1")
        shutil.copy(path, _object(tmp_path / "elsewhere", hash) / path.name)
        assert elsewhere.artifact(hash, "quickjs", "1") is None
    assert store.artifact(hash, "quickjs", "1") == _CODE


def test_a_new_build_replaces_old_ones(store: Store, state: Path) -> None:
    """A new artifact replaces those of the engine's other builds; artifacts of other engines stay."""
    hash, _ = submit(store, b"1")
    for engine, build in (("deno", "a"), ("quickjs-ng", "1"), ("quickjs", "1.2-rc_3"), ("quickjs", "A" * 64)):
        store.put_artifact(hash, engine, build, _CODE)
        assert store.artifact(hash, engine, build) == _CODE
    names = ["artifact.deno.a", "artifact.quickjs-ng.1", f"artifact.quickjs.{'A' * 64}", "meta.json", "source"]
    assert _names(state, hash) == names


@pytest.mark.parametrize("lost", [None, b"", b"junk", b'{"key":"AAAA"} 00000000', b'{"key":"AAAA"}'])
def test_a_lost_key(state: Path, lost: bytes | None, caplog: pytest.LogCaptureFixture) -> None:
    """After the loss of the key no artifact verifies; the store makes a new key, and serves programs as before."""
    with reopened(state) as store:
        hash, _ = submit(store, b"1")
    key = state / "key"
    assert key.stat().st_mode & 0o777 == 0o600
    before = key.read_bytes()
    key.unlink()
    if lost is not None:
        key.write_bytes(lost)
    for number in range(2):
        with reopened(state) as store:
            assert store.load(hash).source == b"1"
            if not number:
                assert store.artifact(hash, "quickjs", BUILD) is None
                store.put_artifact(hash, "quickjs", BUILD, ARTIFACT)
            assert store.artifact(hash, "quickjs", BUILD) == ARTIFACT
    assert key.stat().st_mode & 0o777 == 0o600
    assert key.read_bytes() != before
    assert ("a new key is created" in caplog.text) == (lost is not None)


@pytest.mark.parametrize("build", ["", "a" * 65, "../../x", "a/b", "a b", "ä", "1\n", "a\0"])
def test_an_invalid_build(store: Store, state: Path, build: str) -> None:
    """A build that is too long or not a plain name is refused, and nothing is written."""
    hash, _ = submit(store, b"1")
    before = _names(state, hash)
    staged = store.stage(text(b"2"), uid=7)
    with pytest.raises(Unstorable, match="not a valid build"):
        store.keep(Submission(staged=staged, artifact=ARTIFACT, build=build))
    store.discard(staged)
    with pytest.raises(ValueError, match="not a valid build"):
        store.put_artifact(hash, "quickjs", build, ARTIFACT)
    with pytest.raises(Unstorable, match="not a valid build"):
        store.artifact(hash, "quickjs", build)
    assert _names(state, hash) == before
    assert store.count() == 1


@pytest.mark.parametrize("engine", ["", "Deno", "a.b", "../x", "e" * 33])
def test_an_invalid_engine_name(store: Store, engine: str) -> None:
    """An engine name that is too long or not a plain name is refused, also when a program is staged."""
    with pytest.raises(Unstorable, match="not a valid engine name"):
        store.stage(text(b"1", engine=engine), uid=7)
    with pytest.raises(Unstorable, match="not a valid engine name"):
        store.artifact("0" * 64, engine, BUILD)
    assert not list((store.folder / "programs").glob(".[ts]*-*"))


def test_an_artifact_that_is_too_large(store: Store, state: Path) -> None:
    """An artifact that is too large is refused, and one that grew on the disk is not read."""
    hash, _ = submit(store, b"1")
    large = Artifact(form=Form.BODY, language="javascript", code=bytes(MOST_BYTES))
    with pytest.raises(Unstorable, match="the maximum is"):
        store.put_artifact(hash, "quickjs", BUILD, large)
    assert store.artifact(hash, "quickjs", BUILD) == ARTIFACT
    with (_object(state, hash) / "artifact.quickjs.1").open("ab") as file:
        file.truncate(MOST_BYTES + 1)
    assert store.artifact(hash, "quickjs", BUILD) is None


def test_recent_artifacts_are_cached(store: Store, state: Path) -> None:
    """An artifact comes from memory while its file is unchanged, and from the disk afterwards."""
    hash, _ = submit(store, b"1", artifact=_CODE)
    first = store.artifact(hash, "quickjs", BUILD)
    assert store.artifact(hash, "quickjs", BUILD) is first
    (_object(state, hash) / "artifact.quickjs.1").write_bytes(b"junk")
    assert store.artifact(hash, "quickjs", BUILD) is None
