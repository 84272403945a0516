"""`python -m tests.deploy bookworm trixie`: install promptlog in these releases of Debian, and test it."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from deb_build import __main__ as deb_build
from tests.deploy import machine, root, wheels

_TOOLS = ("mmdebstrap", "systemd-nspawn", "tar", "dpkg-deb")
_MACHINE_S = 900.0

_SCRIPT = """\
mkdir -p /opt /checks
python3 -m venv /opt/promptlog
/opt/promptlog/bin/pip install --quiet --no-index --find-links=/shared/wheels 'promptlog[deno,http,metrics]'
/opt/promptlog/bin/pip install --quiet --no-index --find-links=/shared/wheels --target=/checks pytest
cp -r /shared/inside.py /shared/inside_deb.py /shared/operations /shared/seccomp.json /checks
cd /checks
code=0
PYTHONPATH=/checks /opt/promptlog/bin/python -m pytest -p no:cacheprovider --durations=5 {options} inside.py || code=1
rm -rf /opt/promptlog
PYTHONPATH=/checks /usr/bin/python3 -m pytest -p no:cacheprovider {options} inside_deb.py || code=1
exit $code
"""


def check(release: str, options: str) -> int:
    """Build, boot and test one release, and return pytest's exit code."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="run-", dir=root.cache_folder()) as name:
        folder = Path(name)
        root.unpack(release, folder / "root")
        shared = folder / "shared"
        shared.mkdir(mode=0o755)
        wheels.collect(root.python_of(folder / "root"), shared / "wheels")
        for name in ("inside.py", "inside_deb.py"):
            shutil.copy(Path(__file__).with_name(name), shared)
        deb_build.build(release, shared, shared / "wheels").rename(shared / "promptlog.deb")
        shutil.copy(Path(__file__).parents[2] / "container/seccomp.json", shared)
        shutil.copytree(Path(__file__).parents[2] / "docs/operations", shared / "operations")
        print(f"--- {release}: ready to boot after {time.monotonic() - began:.0f} s", flush=True)
        code = machine.boot(folder / "root", shared, _SCRIPT.format(options=options), seconds=_MACHINE_S)
    print(f"--- {release}: exit code {code} after {time.monotonic() - began:.0f} s", flush=True)
    return code


def main() -> int:
    """Test each release that is named. Return 0 if all tests pass."""
    parser = argparse.ArgumentParser()
    parser.add_argument("releases", nargs="+", metavar="RELEASE")
    parser.add_argument("--options", default="", help="further options of pytest in the machine")
    arguments = parser.parse_args()
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing or os.geteuid() != 0:
        print(f"this takes root, and {', '.join(_TOOLS)}: apt-get install mmdebstrap systemd-container dpkg")
        return 2
    return max(check(release, arguments.options) for release in arguments.releases)


if __name__ == "__main__":
    sys.exit(main())
