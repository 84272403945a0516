"""A private daemon for the length of one command."""

from __future__ import annotations

import json
import os
import select
import shutil
import site
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from promptlogctl.errors import NotStarted
from sandbox.claim import Claim, sweep

_START_S = 20.0
_STOP_S = 10.0
_PREFIX = "promptlog-spawn-"

_RUN_MODULE = (
    "import json, runpy, sys; sys.path[:] = json.loads(sys.argv.pop(1)); "
    "runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)


def module_command(module: str) -> list[str]:
    """Return the command that runs a module with this Python and never imports from the current folder.

    `python -m` puts the current folder first on the import path, and so does an empty part of $PYTHONPATH: a queue.py
    there would be run. `-I` ignores both, and $PYTHONPATH and the user's site-packages as well. So there are two cases:

    - promptlog is installed where `-I` finds it: `python -I -m MODULE`;
    - it is found by $PYTHONPATH, in the user's site-packages, or in a checkout that is the current folder: `-I`, and
      the import path of this process as an argument. The checkout goes last, behind the libraries.
    """
    here = os.path.realpath(os.getcwd())
    given = [*os.environ.get("PYTHONPATH", "").split(os.pathsep), site.getusersitepackages()]
    if os.path.realpath(_installation()) not in {here, *map(os.path.realpath, filter(None, given))}:
        return [sys.executable, "-I", "-m", module]
    folders = [folder for folder in sys.path if os.path.isabs(folder) and os.path.realpath(folder) != here]
    if os.path.realpath(_installation()) == here:
        folders.append(here)
    return [sys.executable, "-I", "-c", _RUN_MODULE, json.dumps(folders), module]


def _installation() -> Path:
    return Path(__file__).parent.parent.parent


@contextmanager
def private_daemon(state_dir: Path | None) -> Iterator[Path]:
    """Start a daemon and give its socket; stop it, and remove what was temporary, at the end. Raises NotStarted.

    If this process is killed, the daemon stops by itself (`--exit-with-parent`), and the next private daemon of
    this user removes the temporary folder.
    """
    sweep(Path(tempfile.gettempdir()), f"{_PREFIX}*", shutil.rmtree)
    claim = _claimed_folder()
    folder = claim.folder
    socket = folder / "socket"
    log = folder / "log"
    reading, writing = os.pipe()
    try:
        with log.open("wb") as stderr:
            process = subprocess.Popen(
                [
                    *module_command("promptlogd"),
                    "--socket",
                    str(socket),
                    "--state-dir",
                    str((state_dir or folder / "state").absolute()),
                    "--ready-fd",
                    str(writing),
                    "--exit-with-parent",
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                # With the claim, so that nobody takes the folder for abandoned while the daemon lives.
                pass_fds=(writing, claim.fileno()),
                start_new_session=True,
                cwd="/",  # an empty part of $LD_LIBRARY_PATH or $PATH means the current folder
            )
        try:
            os.close(writing)
            ready = select.poll()
            ready.register(reading, select.POLLIN)
            if not ready.poll(_START_S * 1000) or os.read(reading, 16) != b"ready\n":
                said = log.read_text("utf-8", "replace").strip().splitlines()
                raise NotStarted(str(socket), said[-1] if said else "it said nothing; try: promptlogctl doctor")
            yield socket
        finally:
            process.terminate()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    finally:
        os.close(reading)
        shutil.rmtree(folder, ignore_errors=True)
        claim.release()


def _claimed_folder() -> Claim:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        with suppress(FileNotFoundError, BlockingIOError):  # another command swept it before it was claimed
            return Claim.take(folder)
