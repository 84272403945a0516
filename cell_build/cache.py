"""The folder that keeps fetched sources, objects and executables between builds."""

import atexit
import os
import shutil
import stat
import sys
import tempfile
import time
from pathlib import Path

VARIABLE = "PROMPTLOG_BUILD_CACHE"
UNUSED_DAYS = 30  # entries that no build has used for this time are removed


def open_folder() -> Path:
    """Return the cache, a folder that only this user can write to, or a temporary folder if there is none."""
    folder = _wanted_folder()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_owner(folder)
        _remove_unused(folder)
    except OSError as error:
        print(
            f"promptlog: {folder} cannot be the build cache: {error}.\n"
            f"  This build continues without a cache.  Set {VARIABLE} to another folder that you own.",
            file=sys.stderr,
        )
        temporary = tempfile.mkdtemp(prefix="promptlog-build-")
        atexit.register(shutil.rmtree, temporary, ignore_errors=True)
        return Path(temporary)
    return folder


def write(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write a file atomically, even if the machine stops or another build writes the same file."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def mark_used(path: Path) -> None:
    """Keep an entry for another UNUSED_DAYS."""
    os.utime(path)


def _wanted_folder() -> Path:
    given = os.environ.get(VARIABLE)
    if given:
        return Path(given).absolute()
    user_cache = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(user_cache):
        user_cache = os.path.expanduser("~/.cache")
    return Path(user_cache, "promptlog", "build")


def _check_owner(folder: Path) -> None:
    """Raise PermissionError unless only this user can write to the cache, whose content will run in the jail."""
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise PermissionError("it is not a folder that only this user can write to")
    if not os.access(folder, os.W_OK):
        raise PermissionError("it is read-only")


def _remove_unused(folder: Path) -> None:
    oldest = time.time() - UNUSED_DAYS * 86_400
    for entry in (*folder.glob("cells/*"), *folder.glob("objects/*"), *folder.glob("work-*")):
        try:
            if entry.stat().st_mtime < oldest:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        except FileNotFoundError:  # another build has removed the entry
            continue
