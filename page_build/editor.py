"""Fetches the packages of the editor, and converts them to modules that a browser can load."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from cell_build import cache

FOLDER = "promptlogctl/http/static/editor"
"""Folder of the modules, in the source tree and in the wheel."""

VARIABLE = "PROMPTLOG_EDITOR"
"""Environment variable. `none`: omit the editor. `required`: fail if the editor cannot be fetched (for releases)."""

DENO_REQUIREMENT = "deno>=2.9.8,<3"

LICENSES = "LICENSES.txt"
_FETCH_S = 120
_CONFIGURATION = ("deno.json", "deno.lock")
_HERE = Path(__file__).parent
_IMPORT = re.compile(r"""^((?:import|export)\b[^;'"]*)(['"])([^'"./][^'"]*)\2""", re.MULTILINE)


class EditorError(Exception):
    """The editor could not be fetched."""


def requirements(cache_folder: Path) -> list[str]:
    """Return the packages that the build must install: Deno, if it is needed and has a wheel for this machine."""
    has_wheel = platform.machine() in ("x86_64", "aarch64") and platform.libc_ver()[0] == "glibc"
    if os.environ.get(VARIABLE) == "none" or not has_wheel or cached(cache_folder) is not None:
        return []
    return [DENO_REQUIREMENT]


def find_or_fetch(cache_folder: Path) -> Path | None:
    """Return the folder with the modules.

    Return None if the user wants no editor, or, after a warning, if it cannot be fetched. Raises EditorError instead of
    the warning if the editor is required.
    """
    wish = os.environ.get(VARIABLE, "")
    if wish == "none":
        return None
    try:
        return cached(cache_folder) or fetch(cache_folder)
    except EditorError as error:
        if wish == "required":
            raise
        print(f"promptlog: the page gets a plain text field in place of its editor: {error}", file=sys.stderr)
        return None


def cached(cache_folder: Path) -> Path | None:
    """Return the folder in the cache with the modules, or None if they are not cached."""
    folder = cache_place(cache_folder)
    return folder if (folder / LICENSES).exists() else None


def cache_place(cache_folder: Path) -> Path:
    """Return the folder in the cache for the modules. Its name is a digest of the lock file and of this file."""
    files = [_HERE / name for name in (*_CONFIGURATION, "editor.py")]
    digest = hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()[:16]
    return cache_folder / f"editor-{digest}"


def fetch(cache_folder: Path) -> Path:
    """Fetch the packages, and return the folder in the cache with the modules. Raises EditorError."""
    deno = _find_deno()
    with tempfile.TemporaryDirectory(prefix="promptlog-editor-") as name:
        work = Path(name)
        for file in _CONFIGURATION:
            (work / file).write_bytes((_HERE / file).read_bytes())
        command = [deno, "install", "--frozen", "--node-modules-dir=auto", "--quiet"]
        environment = os.environ | {"DENO_DIR": str(work / "cache"), "DENO_NO_UPDATE_CHECK": "1", "NO_COLOR": "1"}
        try:
            done = subprocess.run(
                command, cwd=work, env=environment, capture_output=True, text=True, timeout=_FETCH_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise EditorError(f"deno could not fetch it: {error}") from error
        if done.returncode != 0:
            raise EditorError("deno could not fetch it:\n    " + "\n    ".join(done.stderr.strip().splitlines()[-5:]))
        modules = modules_of(work / "node_modules" / ".deno")
    target = cache_place(cache_folder)
    # The licences are written last, because `cached` takes their file as a sign of a complete folder.
    for name, content in sorted(modules.items(), key=lambda item: item[0] == LICENSES):
        cache.write(target / name, content, 0o644)
    return target


def copy_to(made: Path, folder: Path) -> None:
    """Copy the modules from the cache into a folder, and the licences last: their file marks a complete copy."""
    for path in sorted(made.iterdir(), key=lambda path: path.name == LICENSES):
        cache.write(folder / path.name, path.read_bytes(), 0o644)


def _find_deno() -> str:
    """Return the path of Deno's executable. Raises EditorError."""
    if importlib.util.find_spec("deno") is None:
        raise EditorError(f"deno is not installed here; run: pip install '{DENO_REQUIREMENT}'")
    import deno

    with suppress(FileNotFoundError):
        return str(deno.find_deno_bin())
    # In an isolated build, pip installs executables into a temporary folder that only PATH names.
    found = shutil.which("deno")
    if found is None:
        raise EditorError("deno has no executable here")
    return found


def modules_of(packages: Path) -> dict[str, bytes]:
    """Return the module of each package, and a text with all licences, by file name. Raises EditorError."""
    locked = _locked()
    found: dict[str, Path] = {}
    for manifest in packages.glob("*/node_modules/**/package.json"):
        if not manifest.parent.is_symlink() and "node_modules" not in manifest.parent.name:
            description = json.loads(manifest.read_text("utf-8"))
            if description.get("name") in locked:
                found[description["name"]] = manifest.parent
    modules: dict[str, bytes] = {}
    licences = []
    for package, folder in sorted(found.items()):
        description = json.loads((folder / "package.json").read_text("utf-8"))
        source = (folder / _entry(description)).read_text("utf-8")
        modules[_file_name(package)] = _IMPORT.sub(_renamed, source).encode()
        licence = next(iter(sorted(folder.glob("LICENSE*"))), None)
        text = licence.read_text("utf-8") if licence else f"License: {description.get('license')}\n"
        licences.append(f"{package} {description['version']}\n\n{text.strip()}\n")
    if missing := locked - found.keys():
        raise EditorError(f"deno did not install {', '.join(sorted(missing))}")
    modules[LICENSES] = ("\n" + "-" * 80 + "\n\n").join(licences).encode()
    return modules


def _locked() -> set[str]:
    """Return the names of the packages in the lock file."""
    lock = json.loads((_HERE / "deno.lock").read_text("utf-8"))
    return {key.rpartition("@")[0] for key in lock["npm"]}


def _entry(description: dict[str, object]) -> str:
    """Return the path of a package's ES module."""
    exports = description.get("exports")
    for found in (exports, exports.get(".") if isinstance(exports, dict) else None):
        if isinstance(found, dict) and isinstance(found.get("import"), str):
            return str(found["import"])
    return str(description.get("module") or description.get("main"))


def _file_name(package: str) -> str:
    return package.removeprefix("@").replace("/", "-") + ".js"


def _renamed(match: re.Match[str]) -> str:
    return f"{match[1]}{match[2]}./{_file_name(match[3])}{match[2]}"
