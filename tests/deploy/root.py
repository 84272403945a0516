"""Debian roots: built once, with promptlog's dependencies, cached as tar files, and unpacked for each boot."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.deploy import cache
from tests.deploy.wheels import REQUIREMENT

PACKAGES = ("systemd-sysv", "dbus", "libpam-systemd", "python3", "python3-venv")
"""Packages of a root besides Debian's required packages."""

KERNEL = ("linux-image-cloud-amd64",)
"""Packages that a root also needs to boot under QEMU: Debian's smallest kernel with virtio. It includes an initrd."""

_STEP_S = 900

_PIP = "/opt/promptlog/bin/pip install --quiet --no-index --find-links=/shared/wheels"

# promptlog is removed again so that its dependencies stay.
_INSTALL_DEPENDENCIES = f"""\
mkdir -p /opt /checks
python3 -m venv /opt/promptlog
{_PIP} '{REQUIREMENT}'
/opt/promptlog/bin/pip uninstall --quiet --yes promptlog
{_PIP} --target=/checks pytest
"""
_INSTALL = f"{_PIP} '{REQUIREMENT}'"


def make(target: Path, release: str, packages: tuple[str, ...], wheels: list[Path], name: str) -> None:
    """Make a root in a folder that does not exist: a Debian release with these packages and promptlog.

    promptlog is installed from its wheel and those of its dependencies in /opt/promptlog, and pytest in /checks.
    """
    (own,) = (wheel for wheel in wheels if wheel.name.startswith("promptlog-"))
    dependencies = sorted(wheel.name for wheel in wheels if wheel is not own)
    recipe = " ".join([_INSTALL_DEPENDENCIES, *packages, *dependencies])

    def make_archive(path: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="root-", dir=path.parent) as folder:
            _unpack(_bare(release, packages, name), Path(folder))
            _install(Path(folder), wheels, _INSTALL_DEPENDENCIES)
            _run("tar", "--create", "--numeric-owner", "--xattrs", f"--file={path}", f"--directory={folder}", ".")

    target.mkdir(mode=0o755)
    _unpack(cache.archive(f"{release}-{name}-prepared", recipe, make_archive), target)
    _install(target, [own], _INSTALL)


def _bare(release: str, packages: tuple[str, ...], name: str) -> Path:
    """Return the tar file of a root with Debian's packages only."""

    def make_archive(path: Path) -> None:
        _run("mmdebstrap", "--variant=minbase", f"--include={','.join(packages)}", release, str(path))

    return cache.archive(f"{release}-{name}", " ".join(packages), make_archive)


def _unpack(archive: Path, folder: Path) -> None:
    _run("tar", "--extract", "--numeric-owner", "--xattrs", f"--file={archive}", f"--directory={folder}")


def _install(root: Path, wheels: list[Path], script: str) -> None:
    """Run a script in a root, which finds these wheels in /shared/wheels."""
    folder = root / "shared/wheels"
    folder.mkdir(parents=True)
    for wheel in wheels:
        shutil.copy(wheel, folder)
    _run("chroot", str(root), "/bin/sh", "-e", "-c", script)
    shutil.rmtree(folder)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, timeout=_STEP_S, stdin=subprocess.DEVNULL)
