"""A private daemon for one command."""

from __future__ import annotations

import os
import re
import select
import shutil
import site
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from promptlogctl.client import PromptlogError
from sandbox.claim import Claim, sweep
from sandbox.trusted_path import UntrustedPath, check_trusted

_START_S = 20.0
_STOP_S = 10.0
_LOG_PREFIX = re.compile(r"^[\d:T+-]+ [A-Z]+ [\w.]+: ")
"""Time, level and logger before a log message of the daemon: `_set_up_logging` in promptlogd/__main__.py."""
_PREFIX = "promptlog-spawn-"
_MARK = ".made-by-promptlogctl"
"""A marker file that distinguishes temporary folders of promptlogctl from other folders with such a name."""


class NotStarted(PromptlogError):
    """The private daemon of `--spawn` did not start."""

    def __init__(self, why: str) -> None:
        super().__init__(f"the private daemon did not start: {why}")


@contextmanager
def private_daemon(state_dir: Path | None) -> Iterator[Path]:
    """Context manager: the socket of a new daemon. At the end, stop it and remove temporary files. Raises NotStarted.

    If this process is killed, the daemon stops by itself (`--exit-with-parent`), and the next private daemon of this
    user removes the temporary folder.
    """
    with ExitStack() as stack:
        try:
            socket = _start(stack, state_dir)
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            raise NotStarted(f"{where}{error.strerror or error}") from None
        yield socket


def _start(stack: ExitStack, state_dir: Path | None) -> Path:
    """Start a daemon and return its socket. `stack` stops it and removes temporary files.

    Raises NotStarted, and OSError for errors of the system.
    """
    parent = _temporary_folder()
    sweep(parent, f"{_PREFIX}*", _remove_if_ours)
    claim = _claimed_folder(parent)
    stack.callback(claim.release)
    folder = claim.folder
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
    log = stack.enter_context(os.fdopen(os.open("log", flags, 0o600, dir_fd=claim.fileno()), "w+b"))
    command, environment = module_command("promptlogd")
    command += ["--socket", str(folder / "socket"), "--state-dir", str((state_dir or folder / "state").absolute())]
    reading, writing = os.pipe()
    stack.callback(os.close, reading)
    try:
        process = subprocess.Popen(
            [*command, "--ready-fd", str(writing), "--exit-with-parent"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            # Pass on the claim, so that the folder is not removed while the daemon is running.
            pass_fds=(writing, claim.fileno()),
            start_new_session=True,
            cwd="/",  # an empty component of $LD_LIBRARY_PATH or $PATH means the current folder
            env=environment,
        )
    finally:
        os.close(writing)
    stack.callback(_stop, process)
    ready = select.poll()
    ready.register(reading, select.POLLIN)
    if not ready.poll(_START_S * 1000) or os.read(reading, 16) != b"ready\n":
        log.seek(0)
        said = log.read().decode("utf-8", "replace").strip().splitlines()
        raise NotStarted(_LOG_PREFIX.sub("", said[-1]) if said else "it printed nothing; try: promptlogctl doctor")
    return folder / "socket"


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def module_command(module: str) -> tuple[list[str], dict[str, str]]:
    """Return the command and the environment that run a module with this Python, without importing from the current
    folder.

    `python -m` puts the current folder first on the import path; -P prevents this. Relative components of $PYTHONPATH
    also refer to the current folder, so they are removed. If promptlog is not installed, its folder is added.
    """
    folders = [folder for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if os.path.isabs(folder)]
    ours = str(Path(__file__).resolve().parents[2])
    if ours not in map(os.path.realpath, (*folders, *site.getsitepackages(), site.getusersitepackages())):
        folders.append(ours)
    return [sys.executable, "-P", "-m", module], {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}


def _temporary_folder() -> Path:
    """Return the folder for temporary files. Raises NotStarted if another user could replace it."""
    folder = Path(tempfile.gettempdir())
    try:
        check_trusted(folder)
    except UntrustedPath as error:
        raise NotStarted(f"{error.why}; or set $TMPDIR to another folder") from None
    except OSError as error:
        raise NotStarted(f"can't use {folder}: {error.strerror}") from None
    return folder


def _claimed_folder(parent: Path) -> Claim:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        with suppress(FileNotFoundError, BlockingIOError):  # another command removed it before it was claimed
            claim = Claim.take(folder)
            (folder / _MARK).touch()
            return claim


def _remove_if_ours(folder: Path) -> None:
    # An empty folder is left if the command is killed before it creates the marker.
    if (folder / _MARK).exists() or not any(folder.iterdir()):
        shutil.rmtree(folder)
