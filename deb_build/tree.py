"""Makes the files of a package, below a folder that stands for the root of the host.

pip unpacks the wheels, even for a version of Python that this machine does not have. No code of a wheel is executed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

from deb_build.release import Release

ROOT = Path(__file__).parents[1]
EXTRAS = "deno,http,metrics"
PREFIX = Path("opt/promptlog")
_UNITS = "usr/lib/systemd/system"
_PIP_S = 900
_ELF = b"\x7fELF"

_SCRIPT = """\
#!/{prefix}/bin/python3
import sys

from {module} import {function}

sys.exit({function}())
"""
_PYVENV = """\
home = /usr/bin
include-system-site-packages = false
version = {python}
"""


def collect(release: Release, folder: Path, *, found: Path | None = None) -> list[Path]:
    """Build promptlog's wheel, fetch its dependencies, and put all wheels into `folder`. Return them, sorted by name.

    `found`: a folder with wheels, used instead of a package index. If it contains promptlog's wheel, none is built.
    """
    folder.mkdir(parents=True)
    index = [] if found is None else ["--no-index", f"--find-links={found.absolute()}"]
    own = sorted(found.glob("promptlog-*.whl")) if found is not None else []
    if not own:
        _pip("wheel", "--no-deps", f"--wheel-dir={folder}", str(ROOT))
        own = sorted(folder.glob("promptlog-*.whl"))
    _pip(
        "download",
        "--only-binary=:all:",
        f"--python-version={release.python}",
        f"--dest={folder}",
        *index,
        f"{own[-1]}[{EXTRAS}]",
    )
    return sorted(folder.glob("*.whl"))


def make(release: Release, wheels: list[Path], tree: Path) -> None:
    """Make all files of a package except those in DEBIAN/."""
    _environment(release, wheels, tree / PREFIX)
    for unit in sorted((ROOT / "systemd").glob("promptlog*.s*")):
        if unit.suffix in (".service", ".socket"):
            _copy(unit, tree / _UNITS / unit.name)
    _copy(ROOT / "systemd/promptlog.sysusers.conf", tree / "usr/lib/sysusers.d/promptlog.conf")
    _copy(ROOT / "systemd/promptlog.tmpfiles.conf", tree / "usr/lib/tmpfiles.d/promptlog.conf")
    _copy(ROOT / "systemd/promptlog.toml", tree / "etc/promptlog/promptlog.toml")
    documents = tree / "usr/share/doc/promptlog"
    _copy(ROOT / "LICENSE", documents / "copyright")
    sums = [f"{hashlib.sha256(wheel.read_bytes()).hexdigest()}  {wheel.name}\n" for wheel in wheels]
    (documents / "wheels.sha256").write_text("".join(sums))
    (tree / "usr/bin").mkdir()
    (tree / "usr/bin/promptlogctl").symlink_to(f"/{PREFIX}/bin/promptlogctl")


def _environment(release: Release, wheels: list[Path], folder: Path) -> None:
    """Make a virtual environment for Debian's Python with the contents of the wheels, in the layout of venv."""
    packages = folder / f"lib/python{release.python}/site-packages"
    _pip(
        "install",
        "--no-index",
        "--no-deps",
        "--no-compile",
        "--only-binary=:all:",
        f"--python-version={release.python}",
        f"--target={packages}",
        *map(str, wheels),
    )
    (folder / "pyvenv.cfg").write_text(_PYVENV.format(python=release.python))
    commands = folder / "bin"
    commands.mkdir()
    for path in sorted((packages / "bin").iterdir()):
        if path.read_bytes()[:4] == _ELF:  # other files are scripts, whose first line names this machine's interpreter
            path.rename(commands / path.name)
            (commands / path.name).chmod(0o755)
    shutil.rmtree(packages / "bin")
    (commands / f"python{release.python}").symlink_to(f"/usr/bin/python{release.python}")
    for name in ("python", "python3"):
        (commands / name).symlink_to(f"python{release.python}")
    for name, entry in _entry_points():
        module, function = entry.split(":")
        (commands / name).write_text(_SCRIPT.format(prefix=PREFIX, module=module, function=function))
        (commands / name).chmod(0o755)
    for information in packages.glob("*.dist-info"):
        for name in ("RECORD", "REQUESTED", "direct_url.json"):  # written by pip, with paths of this machine
            (information / name).unlink(missing_ok=True)
        (information / "INSTALLER").write_text("dpkg\n")


def _entry_points() -> Iterable[tuple[str, str]]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return sorted(project["scripts"].items())


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "PIP_TARGET"}
    subprocess.run(command, check=True, timeout=_PIP_S, env=environment, stdin=subprocess.DEVNULL)
