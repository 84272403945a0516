"""Debian roots, which are built once, cached as tar files, and unpacked for each boot."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

PACKAGES = ("systemd-sysv", "dbus", "libpam-systemd", "python3", "python3-venv")
"""Packages of a root besides Debian's required packages."""

KERNEL = ("linux-image-cloud-amd64",)
"""Packages that a root also needs to boot under QEMU: Debian's smallest kernel with virtio. It includes an initrd."""

_BUILD_S, _UNPACK_S = 900, 120


def cache_folder() -> Path:
    """Return the folder that is kept between runs, because building a Debian root takes minutes."""
    wanted = os.environ.get("XDG_CACHE_HOME", "")
    folder = (Path(wanted) if wanted.startswith("/") else Path.home() / ".cache") / "promptlog" / "deploy"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def archive(release: str, packages: tuple[str, ...] = PACKAGES) -> Path:
    """Return the tar file of a root of this Debian release. Build it if it does not exist."""
    recipe = hashlib.sha256(" ".join(packages).encode()).hexdigest()[:12]
    path = cache_folder() / f"{release}-{recipe}.tar"
    if not path.exists():
        beside = cache_folder() / f".new-{os.getpid()}.tar"
        command = ["mmdebstrap", "--variant=minbase", f"--include={','.join(packages)}", release, str(beside)]
        try:
            subprocess.run(command, check=True, timeout=_BUILD_S, stdin=subprocess.DEVNULL)
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
    return path


def unpack(release: str, folder: Path, packages: tuple[str, ...] = PACKAGES) -> None:
    """Unpack a root into a folder that does not exist yet."""
    folder.mkdir(mode=0o755)
    command = ["tar", "--extract", "--numeric-owner", "--xattrs", f"--file={archive(release, packages)}"]
    command += [f"--directory={folder}"]
    subprocess.run(command, check=True, timeout=_UNPACK_S)


def python_of(folder: Path) -> str:
    """Return the version of Python in a root, for example 3.11."""
    return os.readlink(folder / "usr/bin/python3").removeprefix("python")
