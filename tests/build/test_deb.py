"""The Debian package: its scripts, its control file, and that the same files give the same bytes. Builds no wheel."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import zipfile
from pathlib import Path

import pytest

from deb_build import package, tree
from deb_build.release import RELEASES
from promptlogctl.cli import units

SCRIPTS = sorted((tree.ROOT / "deb_build/debian").iterdir())

pytestmark = pytest.mark.tools


def _wheel(folder: Path) -> Path:
    """Make a wheel with a module, an executable and a script with the path of an interpreter."""
    path = folder / "promptlog-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("promptlogd/__init__.py", "")
        wheel.writestr("promptlog-1.0.data/scripts/deno", b"\x7fELF")
        wheel.writestr("promptlog-1.0.data/scripts/tool", "#!python\n")
        wheel.writestr("promptlog-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: promptlog\nVersion: 1.0\n")
        wheel.writestr(
            "promptlog-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr("promptlog-1.0.dist-info/RECORD", "")
    return path


def _packed(folder: Path, wheel: Path, release: str = "bookworm") -> Path:
    folder.mkdir()
    tree.make(RELEASES[release], [wheel], folder / "tree")
    return package.pack(RELEASES[release], folder / "tree", folder)


def _said(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


@pytest.mark.long
def test_the_same_files_give_the_same_bytes(tmp_path: Path) -> None:
    """Two packages of one wheel are equal, whatever the umask and the folder; another wheel gives another package."""
    wheel = _wheel(tmp_path)
    first = _packed(tmp_path / "first", wheel)
    before = os.umask(0o077)
    try:
        second = _packed(tmp_path / "second", wheel)
    finally:
        os.umask(before)
    assert first.name == second.name
    assert hashlib.sha256(first.read_bytes()).digest() == hashlib.sha256(second.read_bytes()).digest()
    with zipfile.ZipFile(wheel, "a") as more:
        more.writestr("promptlogd/more.py", "")
    assert _packed(tmp_path / "third", wheel).read_bytes() != first.read_bytes()


@pytest.mark.long
def test_what_is_in_it(tmp_path: Path) -> None:
    """Executables and units are in their places, nothing names this machine, and each file belongs to root."""
    path = _packed(tmp_path / "one", _wheel(tmp_path), "trixie")
    lines = _said("dpkg-deb", "--contents", path).splitlines()
    listed = {line.split()[5]: line for line in lines}
    assert all(line.split()[1] == "root/root" for line in lines)
    for name in units.UNITS:
        assert f"./usr/lib/systemd/system/{name}" in listed
    assert listed["./opt/promptlog/bin/deno"].startswith("-rwxr-xr-x")
    assert listed["./opt/promptlog/bin/promptlogd"].startswith("-rwxr-xr-x")
    assert listed["./opt/promptlog/bin/python3.13"].endswith("-> /usr/bin/python3.13")
    assert "./opt/promptlog/bin/tool" not in listed
    assert not [name for name in listed if "__pycache__" in name or name.endswith(("RECORD", "direct_url.json"))]
    subprocess.run(["dpkg-deb", "--extract", path, tmp_path / "out"], check=True, timeout=60)
    assert not [file for file in (tmp_path / "out").rglob("*") if file.is_file() and str(tmp_path) in _text(file)]
    control = _said("dpkg-deb", "--field", path)
    assert "python3 (>= 3.13), python3 (<< 3.14~), python3.13" in control
    assert re.search(r"^Version: \S+\+deb13$", control, re.MULTILINE)


def _text(path: Path) -> str:
    return path.read_bytes().decode("latin-1")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_the_scripts_are_shell(script: Path) -> None:
    """sh can parse each script of the package, and each ends at the first error."""
    subprocess.run(["sh", "-n", script], check=True, timeout=60)
    assert "\nset -e\n" in script.read_text()
