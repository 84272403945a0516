"""`python -m tests.deploy.emulate bookworm trixie`: test promptlog on the kernels of these releases, in QEMU.

promptlog is installed before the boot, because that takes minutes in QEMU.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.deploy import emulator, root, wheels

_TOOLS = ("mmdebstrap", "qemu-system-x86_64", "mke2fs", "chroot", "tar")
_MACHINE_S, _INSTALLATION_S = 540.0, 300.0
_BOOT_S = 150.0
"""Time that pytest has less than the machine. At its end, pytest prints what has failed so far."""

_INSTALL = """\
mkdir -p /opt /checks/tests/deploy
python3 -m venv /opt/promptlog
/opt/promptlog/bin/pip install --quiet --no-index --find-links=/shared/wheels 'promptlog[deno,http,metrics]'
/opt/promptlog/bin/pip install --quiet --no-index --find-links=/shared/wheels --target=/checks pytest
touch /checks/tests/__init__.py /checks/tests/deploy/__init__.py
cp /shared/*.py /checks/tests/deploy
rm -r /shared/wheels
"""
_TEST = """\
export CHECKS_COMMAND_S=300
cd /checks
PYTHONPATH=/checks exec timeout --signal=INT {seconds:.0f} /opt/promptlog/bin/python -m pytest -p no:cacheprovider \\
    --durations=5 --verbose --color=no {options} tests/deploy/emulated.py
"""


def check(release: str, options: str, seconds: float) -> int:
    """Build, boot and test one release, and return pytest's exit code."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="run-", dir=root.cache_folder()) as name:
        folder = Path(name)
        root.unpack(release, folder / "root", root.PACKAGES + root.KERNEL)
        shared = folder / "root/shared"
        shared.mkdir(mode=0o755)
        wheels.collect(root.python_of(folder / "root"), shared / "wheels")
        for file in ("inside.py", "emulated.py"):
            shutil.copy(Path(__file__).with_name(file), shared)
        command = ["chroot", str(folder / "root"), "/bin/sh", "-e", "-c", _INSTALL]
        subprocess.run(command, check=True, timeout=_INSTALLATION_S, stdin=subprocess.DEVNULL)
        print(f"--- {release}: ready to boot after {time.monotonic() - began:.0f} s", flush=True)
        script = _TEST.format(options=options, seconds=seconds - _BOOT_S)
        try:
            code = emulator.boot(folder / "root", folder, script, seconds=seconds)
        finally:
            for log in ("console", "journal"):  # of the last run, to look at after a failure
                if (folder / log).exists():
                    shutil.copy(folder / log, root.cache_folder() / f"{release}-{log}.txt")
    print(f"--- {release}: exit code {code} after {time.monotonic() - began:.0f} s", flush=True)
    return code


def main() -> int:
    """Test each release that is named. Return 0 if all tests pass."""
    parser = argparse.ArgumentParser()
    parser.add_argument("releases", nargs="+", metavar="RELEASE")
    parser.add_argument("--options", default="", help="further options of pytest in the machine")
    parser.add_argument("--seconds", type=float, default=_MACHINE_S, help="time limit of each machine")
    arguments = parser.parse_args()
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing or os.geteuid() != 0:
        print(f"this takes root, and {', '.join(_TOOLS)}: apt-get install mmdebstrap qemu-system-x86")
        return 2
    return max(check(release, arguments.options, arguments.seconds) for release in arguments.releases)


if __name__ == "__main__":
    sys.exit(main())
