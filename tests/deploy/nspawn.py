"""Boots a root with systemd-nspawn, runs one script in it, and leaves nothing behind.

systemd is process 1 of the machine, whose network has only a loopback interface. On a host with cgroup version 1, the
machine has a hierarchy of version 2 without controllers.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from tests.deploy import job

_PROPAGATED = Path("/run/systemd/nspawn/propagate")
_HALT_S = 20.0
_REMOVE_S = 5.0


def boot(root: Path, folder: Path, script: str, *, seconds: float) -> int:
    """Boot a root, run a script in it, and return the script's exit code: a `command.Boot`."""
    name = f"promptlog-{os.getpid()}"
    job.put(root, script, output="append:/shared/output", action="exit")
    output, console = root / "shared/output", folder / "console"
    output.touch()
    command = ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--boot", "--private-network"]
    command += [f"--directory={root}", f"--machine={name}", "--console=pipe"]
    cgroups = _make_cgroups()
    with console.open("wb") as file:
        process = subprocess.Popen(
            ["sh", "-c", 'for file in $1; do echo $$ > "$file"; done; shift; exec "$@"', "sh"]
            + [" ".join(f"{cgroup}/cgroup.procs" for cgroup in cgroups), *command],
            env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
        try:
            job.follow(process, output, seconds=seconds)
        finally:
            _stop(process)
            for cgroup in cgroups:
                _remove(cgroup)
            # systemd-nspawn does not remove this folder if /run is on a disk.
            shutil.rmtree(_PROPAGATED / name, ignore_errors=True)
    code = job.exit_code(root / "result", console)
    shutil.move(root / "result/journal", folder)
    return code


def _stop(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            process.send_signal(number)
            try:
                process.wait(_HALT_S)
            except subprocess.TimeoutExpired:
                continue


def _make_cgroups() -> list[Path]:
    """Create cgroups for the machine. systemd-nspawn creates its own below them, so that all can be removed."""
    mounts = [Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup/systemd")]
    folders = [mount / f"promptlog-deploy-{os.getpid()}" for mount in mounts if (mount / "cgroup.procs").exists()]
    for folder in folders:
        folder.mkdir()
    return folders


def _remove(cgroup: Path) -> None:
    """Remove a cgroup and those below it. The kernel may take some milliseconds to release ended processes."""
    deadline = time.monotonic() + _REMOVE_S
    while cgroup.exists():
        for parent, _, _ in os.walk(cgroup, topdown=False):
            try:
                os.rmdir(parent)
            except OSError:
                if time.monotonic() > deadline:
                    raise
        time.sleep(0.05)
