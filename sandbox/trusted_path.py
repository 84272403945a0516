"""Checks that only root and this user can redirect a path, and creates folders in such paths.

If a process works in a folder of another user, that user can lead it to any file of the host, by replacing a folder by
a symbolic link after the process has checked it. The contents of a path are not checked here.
"""

from __future__ import annotations

import errno
import functools
import grp
import os
import pwd
import stat
from pathlib import Path

from sandbox.user_namespace import NOBODY, is_mapped

_MOST_LINKS = 40
"""Maximum number of symbolic links in one path, the same as the kernel's (path_resolution(7))."""


class UntrustedPath(OSError):
    """Another user can redirect this path. `why` names the component, and how to fix it."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(errno.EPERM, why, str(path))
        self.why = why


def check_trusted(path: Path) -> None:
    """Check each component of an existing path, including symbolic links. Raises UntrustedPath, or OSError.

    Each component must belong to root or to this user. A folder that others may write to must be sticky, like /tmp, so
    that they cannot replace other users' entries.
    """
    parts = list(path.absolute().parts[1:])
    at = Path("/")
    links = 0
    _check_part(at, at.lstat())
    while parts:
        name = parts.pop(0)
        if name == "..":
            at = at.parent
            continue
        at /= name
        status = at.lstat()
        _check_part(at, status)
        if stat.S_ISLNK(status.st_mode):
            links += 1
            if links > _MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
            target = Path(os.readlink(at))
            parts[:0] = target.parts[1:] if target.is_absolute() else target.parts
            at = Path("/") if target.is_absolute() else at.parent


def check_trusted_tree(folder: Path) -> None:
    """Check an existing path, and everything below it if it is a folder. Raises UntrustedPath, or OSError.

    Symbolic links are followed to a file or folder, which is checked by itself: not what is below such a folder.
    """
    check_trusted(folder)
    waiting = [os.fspath(folder)] if folder.is_dir() else []
    owners = (0, os.geteuid())
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                if status.st_uid not in owners or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                    _check_part(Path(entry.path), status)
                if stat.S_ISDIR(status.st_mode):
                    waiting.append(entry.path)
                elif stat.S_ISLNK(status.st_mode) and os.path.exists(entry.path):
                    check_trusted(Path(entry.path))


def make_folders(folder: Path, mode: int) -> None:
    """Create a folder and its missing parents with this mode. Raises UntrustedPath, or OSError."""
    missing: list[Path] = []
    at = folder.absolute()
    while not os.path.lexists(at):
        missing.append(at)
        at = at.parent
    check_trusted(at)
    for new in reversed(missing):
        new.mkdir(mode=mode, exist_ok=True)
    check_trusted(folder)


def _check_part(path: Path, status: os.stat_result) -> None:
    # NOBODY is the owner that the kernel reports if this user namespace does not map the real one.
    if status.st_uid not in (0, os.geteuid()) and not (status.st_uid == NOBODY and _hides_owners()):
        why = f"{path} belongs to uid {status.st_uid}; it must belong to root or to uid {os.geteuid()}, so chown it"
        raise UntrustedPath(path, why)
    if stat.S_ISLNK(status.st_mode) or status.st_mode & stat.S_ISVTX:
        return
    if status.st_mode & stat.S_IWOTH:
        raise UntrustedPath(path, f"every user can write to {path}; fix this with: chmod o-w {path}")
    if status.st_mode & stat.S_IWGRP and _has_access_list(path):
        raise UntrustedPath(
            path, f"{path} has an access control list that lets others write; remove it with: setfacl -b {path}"
        )
    if status.st_mode & stat.S_IWGRP and not _is_private_group(status.st_uid, status.st_gid):
        raise UntrustedPath(path, f"group {status.st_gid} can write to {path}; fix this with: chmod g-w {path}")


def _is_private_group(uid: int, gid: int) -> bool:
    """Whether a group is a user private group, as on Debian, Ubuntu and Fedora."""
    try:
        user, group = pwd.getpwuid(uid), grp.getgrgid(gid)
    except KeyError:
        return False
    if user.pw_gid != gid or group.gr_name != user.pw_name or not set(group.gr_mem) <= {user.pw_name}:
        return False
    return all(other.pw_uid == uid for other in pwd.getpwall() if other.pw_gid == gid)


@functools.cache
def _hides_owners() -> bool:
    """Whether uid 65534 is unmapped in this user namespace. The kernel then reports the host's root as 65534."""
    return not is_mapped(range(NOBODY, NOBODY + 1), "uid_map")


def _has_access_list(path: Path) -> bool:
    """Whether a path has more permissions than its mode shows (acl(5))."""
    try:
        return "system.posix_acl_access" in os.listxattr(path, follow_symlinks=False)
    except OSError:  # the file system does not support them
        return False
