"""`python -m tests.deploy.emulate_arm64 bookworm`: test promptlog on an arm64 kernel, in QEMU.

The machine has the wheel for distribution, and the tests of this checkout. They run the wheel's code.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from cell_build.compiler import ARCHITECTURE_VARIABLE, COMPILER_VARIABLE, ZIG_REQUIREMENT
from tests.deploy import cache, command, qemu, root
from tests.deploy.architecture import ARM64
from tests.hostile.takeover import CELL_VARIABLE

_STEP_S = 900


def _prepare(checks: Path) -> None:
    """Cross-compile the cell that tests take over, because the machine has no compiler."""
    zig = cache.folder() / ZIG_REQUIREMENT
    if not zig.exists():
        with tempfile.TemporaryDirectory(prefix="new-", dir=cache.folder()) as beside:
            made = Path(beside, "zig")
            install = [sys.executable, "-m", "pip", "--quiet", "install", f"--target={made}", ZIG_REQUIREMENT]
            subprocess.run(install, check=True, timeout=_STEP_S)
            made.rename(zig)
    variables = {ARCHITECTURE_VARIABLE: ARM64.machine, COMPILER_VARIABLE: "zig", "PYTHONPATH": str(zig)}
    build = [sys.executable, "-m", "cell_build", "--define", "TAKEOVER", "--output", str(checks / "takeover")]
    subprocess.run(build, check=True, timeout=_STEP_S, env={**os.environ, **variables})


# What depends on the machine type: the cell and the filters, and what programs and native code can do there. `emulated`
# tests the daemon as a service. The other tests of the daemon and its clients would take hours.
_TESTS = ("tests/cell", "tests/hostile", "tests/conformance")
_LEFT_OUT = (
    # The machine has no compiler.
    "tests/cell/test_sanitized.py",
    "tests/cell/test_scripts.py",
    "tests/cell/test_placement.py::test_the_table_of_another_engine_is_not_used",
    "tests/cell/test_placement.py::test_the_table_of_another_start_is_detected",
    # With cgroup version 2, the usage of a Deno run has no peak if V8 itself ends the process for lack of memory. That
    # does not depend on the machine type. Without JIT, one of the programs reaches its CPU limit of 10 s first here.
    "tests/cell/deno/test_cell.py::test_the_memory_limit",
)

# Debian mounts /run noexec, but tests start cells there. Tests that make cgroups need a delegated cgroup with no other
# process.
_SCRIPT = f"""\
export {CELL_VARIABLE}=/checks/takeover/quickjs-cell HOME=/root
mount -o remount,exec /run
cat > /tmp/python <<'END'
#!/bin/sh
exec systemd-run --quiet --pipe --wait --collect --property=Delegate=yes --working-directory=/checks \\
    --setenv=HOME --setenv=PYTHONPATH --setenv={CELL_VARIABLE} /opt/promptlog/bin/python "$@"
END
chmod +x /tmp/python
code=0
check /opt/promptlog/bin/python tests/deploy/emulated.py || code=1
check /tmp/python {" ".join(_TESTS)} -m "not long and not tools" \\
    {" ".join(f"--deselect={name}" if "::" in name else f"--ignore={name}" for name in _LEFT_OUT)} || code=1
exit $code
"""

MACHINE = command.Machine(
    name="arm64",
    boot=qemu.ARM64.boot,
    boot_s=100,
    command_s=300,
    script=_SCRIPT,
    root_packages=(*root.PACKAGES, root.KERNEL.format(debian=ARM64.debian)),
    foreign=ARM64,
    test_requirements=("pytest>=8.3", "pytest-trio>=0.8", "hypothesis>=6.115"),
    files=("tests", "cell_build", "placement", "container", "docs", "examples", "pyproject.toml"),
    prepare=_prepare,
    needs_deb=False,
    tools=("mmdebstrap", "arch-test", "qemu-system-aarch64", "qemu-aarch64-static", "mke2fs", "chroot", "tar"),
    tools_from="mmdebstrap arch-test qemu-system-arm qemu-user-static",
)

if __name__ == "__main__":
    sys.exit(command.main(MACHINE))
