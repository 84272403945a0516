"""The job of a machine: a shell script that systemd runs after the boot. When the script ends, the machine stops.

The script's exit code and the journal of this boot are then files in /result.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

_UNIT = """\
[Unit]
Description=the script of a test
After=multi-user.target
SuccessAction={action}
FailureAction={action}

[Service]
Type=oneshot
ExecStart=/bin/sh /shared/job
StandardOutput={output}
StandardError=inherit
TimeoutStartSec=infinity
"""

_JOB = """\
{before}
mkdir /result
/bin/sh -e /shared/script
echo $? > /result/code
journalctl --boot --no-pager --output=short-monotonic > /result/journal
{after}
"""

_LOOK_S = 0.2


def put(root: Path, script: str, *, output: str, action: str, before: str = "", after: str = "") -> None:
    """Have systemd run a script in this root.

    `output` and `action` are systemd's values: where the script's output goes, and how the machine ends. The commands
    `before` and `after` belong to the machine.
    """
    (root / "shared/script").write_text(script)
    (root / "shared/job").write_text(_JOB.format(before=before, after=after))
    units = root / "etc/systemd/system"
    (units / "promptlog-test.service").write_text(_UNIT.format(output=output, action=action))
    (units / "multi-user.target.wants").mkdir(exist_ok=True)
    (units / "multi-user.target.wants/promptlog-test.service").symlink_to("../promptlog-test.service")


def follow(process: subprocess.Popen[bytes], output: Path, *, seconds: float) -> None:
    """Print the job's output as it comes, until the machine's process ends. Raises TimeoutError after `seconds`."""
    deadline = time.monotonic() + seconds
    with output.open("rb") as file:
        while True:
            ended = process.poll() is not None
            sys.stdout.buffer.write(file.read())
            sys.stdout.buffer.flush()
            if ended:
                return
            if time.monotonic() > deadline:
                raise TimeoutError("the machine did not finish in time")
            time.sleep(_LOOK_S)


def exit_code(folder: Path, console: Path) -> int:
    """Return the job's exit code. `folder` has the machine's results.

    Raises RuntimeError with the end of the console if the machine ended before the job.
    """
    try:
        return int((folder / "code").read_text())
    except (OSError, ValueError):
        raise RuntimeError(f"the machine ended without a result: {tail(console)}") from None


def tail(console: Path, lines: int = 20) -> str:
    """Return the last lines of a machine's console."""
    text = console.read_bytes().decode("utf-8", "replace") if console.exists() else ""
    return "\n".join(text.splitlines()[-lines:])
