"""The engine's files are exactly those of the pinned sdist, whatever else the archive or the folder contains."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from cell_build import engine_source
from cell_build.errors import BuildError
from tests.build.inputs import STAND_IN_ENGINE, archive, encoded

FILES = encoded(STAND_IN_ENGINE)


def _read(path: Path) -> engine_source.Files:
    return engine_source.from_archive(path, hashlib.sha256(path.read_bytes()).hexdigest())


def test_only_named_files_of_the_archive_are_read(tmp_path: Path) -> None:
    """Archive members with other names are ignored, and no file is written, whatever path they name."""
    path = archive(tmp_path / "a.tar.gz", {**FILES, "../../../escaped": b"x", "other.c": b"x"})
    assert _read(path) == FILES
    assert set(tmp_path.iterdir()) == {path, tmp_path / "cache"}
    assert not (tmp_path.parent / "escaped").exists()


def test_wrong_hash_is_refused(tmp_path: Path) -> None:
    """An archive with the right files is refused if its hash is not the pinned one."""
    path = archive(tmp_path / "a.tar.gz", FILES)
    assert _read(path) == FILES
    with pytest.raises(BuildError, match=r"its SHA-256 is .* not 43d2e482"):
        engine_source.from_archive(path)


@pytest.mark.parametrize("kind", ["missing", "too large", "symbolic link", "hard link", "device"])
def test_unusable_member_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Each required member must be a regular file within the size limit."""
    monkeypatch.setattr(engine_source, "MAX_FILE_BYTES", 10_000)
    members: dict[str, bytes | tarfile.TarInfo] = dict(FILES)
    assert _read(archive(tmp_path / "good.tar.gz", members)) == FILES
    if kind == "missing":
        del members["dtoa.c"]
    elif kind == "too large":
        members["dtoa.c"] = bytes(10_001)
    else:
        member = members["dtoa.c"] = tarfile.TarInfo()
        member.type = {"symbolic link": tarfile.SYMTYPE, "hard link": tarfile.LNKTYPE, "device": tarfile.CHRTYPE}[kind]
        member.linkname = "/etc/passwd"
    with pytest.raises(BuildError, match=r"has no file .*/dtoa\.c of at most 10000 bytes"):
        _read(archive(tmp_path / "bad.tar.gz", members))


@pytest.mark.parametrize("below", ["", engine_source.ENGINE_FOLDER])
def test_folder_gives_the_same_files(tmp_path: Path, below: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable can name an unpacked sdist, or the folder of the engine's files in it."""
    folder = tmp_path / "unpacked"
    (folder / below).mkdir(parents=True)
    for name, data in FILES.items():
        (folder / below / name).write_bytes(data)
    monkeypatch.setenv(engine_source.SOURCE_VARIABLE, str(folder))
    assert engine_source.find(tmp_path) == FILES


def test_folder_without_a_file_is_refused(tmp_path: Path) -> None:
    """The error names the variable and the missing file."""
    with pytest.raises(BuildError, match=r"(?s)PROMPTLOG_QUICKJS_SOURCE=.* has not all files .*quickjs\.c"):
        engine_source.from_folder(tmp_path)


def test_missing_archive_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the given path does not exist, the build fails and does not fetch the source."""
    monkeypatch.setenv(engine_source.SOURCE_VARIABLE, str(tmp_path / "nothing"))
    with pytest.raises(BuildError, match=r"cannot be read: No such file"):
        engine_source.find(tmp_path)


def test_damaged_archive_in_the_cache_is_not_used(cache_folder: Path) -> None:
    """A damaged archive is not used, so that the build fetches it again."""
    archive(cache_folder / f"{engine_source.SDIST_FOLDER}.tar.gz", FILES)
    assert engine_source.find(cache_folder) is None


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An index with one sdist that has the pinned name. Its code creates the file `ran` when it is executed."""
    ran = f"open({str(tmp_path / 'ran')!r}, 'w')\n"
    packaging = {
        "PKG-INFO": f"Metadata-Version: 2.1\nName: quickjs-ng\nVersion: {engine_source.SDIST_VERSION}\n",
        "pyproject.toml": '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n',
        "setup.py": ran + "import setuptools; setuptools.setup(name='quickjs-ng')\n",
    }
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return archive(folder / f"{engine_source.SDIST_FOLDER}.tar.gz", FILES, encoded(packaging))


def test_fetching_runs_no_code_of_the_sdist(
    index: Path, tmp_path: Path, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pip fetches the sdist without running its code, and the archive is in the cache afterwards."""
    with tarfile.open(index) as tar:
        script = tar.extractfile(f"{engine_source.SDIST_FOLDER}/setup.py")
        assert script is not None
        subprocess.run([sys.executable, "-c", script.read().splitlines()[0]], check=True)
    assert (tmp_path / "ran").exists()
    (tmp_path / "ran").unlink()
    monkeypatch.setattr(engine_source, "SDIST_SHA256", hashlib.sha256(index.read_bytes()).hexdigest())
    assert engine_source.fetch(cache_folder) == FILES
    assert engine_source.find(cache_folder) == FILES
    assert not (tmp_path / "ran").exists()


def test_index_with_another_sdist_is_refused(index: Path, tmp_path: Path, cache_folder: Path) -> None:
    """An sdist of the same name with another hash is neither unpacked nor cached."""
    with pytest.raises(BuildError, match=r"(?s)DO NOT MATCH THE HASHES.*43d2e482"):
        engine_source.fetch(cache_folder)
    assert index.exists()
    assert not (tmp_path / "ran").exists()
    assert engine_source.find(cache_folder) is None


def test_without_an_index_the_message_says_what_to_set(cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error contains pip's message, and the variable for builds without a network."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    with pytest.raises(BuildError, match=r"(?s)pip could not fetch .*No matching distribution.*set PROMPTLOG_QUICKJS"):
        engine_source.fetch(cache_folder)


def test_without_pip_the_message_says_so(cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says that pip is missing, as in a build without isolation."""
    monkeypatch.setattr("cell_build.engine_source.importlib.util.find_spec", lambda name: None)
    with pytest.raises(BuildError, match=r"pip is not installed here"):
        engine_source.fetch(cache_folder)


def test_version_and_licence_come_from_the_files() -> None:
    """Version and licence of the engine are read from its files, so that they also fit another version."""
    assert engine_source.version(FILES) == "9.8.7"
    assert engine_source.licence(FILES) == "An engine.\n\nCopyright (c) somebody"
