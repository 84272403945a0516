"""Boots a root with systemd-nspawn, runs one script in it, and leaves nothing behind.

systemd is process 1 of the machine, whose network has only a loopback interface. On a host with cgroup version 1, the
machine has a hierarchy of version 2 without controllers.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

_UNIT = """\
[Unit]
Description=the script of a test
After=multi-user.target
SuccessAction=exit
FailureAction=exit

[Service]
Type=oneshot
ExecStart=/bin/sh -e /shared/script
StandardOutput=append:/shared/output
StandardError=inherit
TimeoutStartSec=infinity
"""
_PROPAGATED = Path("/run/systemd/nspawn/propagate")
_HALT_S = 20.0
_REMOVE_S = 5.0


def boot(root: Path, shared: Path, script: str, *, seconds: float) -> int:
    """Boot the machine, run a shell script, print its output as it comes, and return its exit code.

    The script finds the folder `shared` at /shared. Raises TimeoutError after `seconds`.
    """
    name = f"promptlog-{os.getpid()}"
    (shared / "script").write_text(script)
    output = shared / "output"
    output.touch()
    unit = root / "etc/systemd/system/promptlog-test.service"
    unit.write_text(_UNIT)
    wants = root / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(exist_ok=True)
    (wants / unit.name).symlink_to(f"../{unit.name}")
    command = ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--boot", "--private-network"]
    command += [f"--directory={root}", f"--machine={name}", f"--bind={shared}:/shared", "--console=pipe"]
    cgroups = _make_cgroups()
    with (shared / "console").open("wb") as console:
        process = subprocess.Popen(
            ["sh", "-c", 'for file in $1; do echo $$ > "$file"; done; shift; exec "$@"', "sh"]
            + [" ".join(f"{folder}/cgroup.procs" for folder in cgroups), *command],
            env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
        )
        try:
            return _follow(process, output, time.monotonic() + seconds)
        finally:
            _stop(process)
            for folder in cgroups:
                _remove(folder)
            # systemd-nspawn does not remove this folder if /run is on a disk.
            shutil.rmtree(_PROPAGATED / name, ignore_errors=True)


def _follow(process: subprocess.Popen[bytes], output: Path, deadline: float) -> int:
    with output.open("rb") as file:
        while True:
            code = process.poll()
            sys.stdout.buffer.write(file.read())
            sys.stdout.buffer.flush()
            if code is not None:
                return code
            if time.monotonic() > deadline:
                raise TimeoutError("the machine did not finish in time")
            time.sleep(0.2)


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
