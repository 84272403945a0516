"""Debian roots: built once, with promptlog's dependencies, cached as tar files, and unpacked for each boot."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.deploy import cache
from tests.deploy.architecture import Architecture
from tests.deploy.wheels import REQUIREMENT

PACKAGES = ("systemd-sysv", "dbus", "libpam-systemd", "python3", "python3-venv")
"""Packages of a root besides Debian's required packages."""

KERNEL = "linux-image-cloud-{debian}"
"""The package that a root also needs to boot under QEMU: Debian's smallest kernel with virtio, and an initrd."""

# By default, Debian collects modules for all devices. Emulated programs take minutes for that.
_SMALL_INITRD = """\
mkdir -p "$1/etc/initramfs-tools/conf.d" "$1/usr/share/initramfs-tools/modules.d"
echo MODULES=list > "$1/etc/initramfs-tools/conf.d/small"
printf '%s\\n' virtio_pci virtio_blk ext4 > "$1/usr/share/initramfs-tools/modules.d/small"
"""

_STEP_S = 1800

_PIP = "/opt/promptlog/bin/pip install --quiet --no-index --find-links=/shared/wheels"

# promptlog is removed again so that its dependencies stay.
_INSTALL_DEPENDENCIES = f"""\
mkdir -p /opt /checks
python3 -m venv /opt/promptlog
{_PIP} '{REQUIREMENT}'
/opt/promptlog/bin/pip uninstall --quiet --yes promptlog
"""
_INSTALL = f"{_PIP} '{REQUIREMENT}'"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What is in a root."""

    name: str
    """The name in the cache, beside the release."""

    release: str
    packages: tuple[str, ...]
    test_requirements: tuple[str, ...]
    """Python packages that the tests need."""

    foreign: Architecture | None
    """The machine type, if it is not this host's. This host's kernel must run its programs (binfmt_misc)."""


def make(target: Path, recipe: Recipe, wheels: list[Path]) -> None:
    """Make a root in a folder that does not exist: a Debian release with these packages and promptlog.

    promptlog is installed from its wheel and those of its dependencies in /opt/promptlog, and what its tests need in
    /checks.
    """
    (own,) = (wheel for wheel in wheels if wheel.name.startswith("promptlog-"))
    dependencies = sorted(wheel.name for wheel in wheels if wheel is not own)
    script = _INSTALL_DEPENDENCIES + " ".join([f"{_PIP} --target=/checks", *map(repr, recipe.test_requirements)])

    def make_archive(path: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="root-", dir=path.parent) as folder:
            _unpack(_bare(recipe), Path(folder))
            _install(Path(folder), wheels, script)
            _run("tar", "--create", "--numeric-owner", "--xattrs", f"--file={path}", f"--directory={folder}", ".")

    target.mkdir(mode=0o755)
    content = " ".join([script, *recipe.packages, *dependencies])
    _unpack(cache.archive(f"{recipe.release}-{recipe.name}-prepared", content, make_archive), target)
    _install(target, [own], _INSTALL)


def _bare(recipe: Recipe) -> Path:
    """Return the tar file of a root with Debian's packages only."""

    def make_archive(path: Path) -> None:
        options = ["--variant=minbase", f"--include={','.join(recipe.packages)}"]
        if recipe.foreign is not None:
            options += [f"--architectures={recipe.foreign.debian}", f"--essential-hook={_SMALL_INITRD}"]
        _run("mmdebstrap", *options, recipe.release, str(path))

    return cache.archive(f"{recipe.release}-{recipe.name}", " ".join(recipe.packages), make_archive)


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
