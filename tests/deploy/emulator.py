"""Boots a root with QEMU, without KVM, and runs one script in it, to test with a kernel that uses cgroup version 2.

The root must contain a kernel. The machine has no network. Its first serial port is the console, and its second one
receives the output of the script. The machine writes the script's exit code and the journal as a tar file to its second
disk.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path

_UNIT = """\
[Unit]
Description=the script of a test
After=multi-user.target
SuccessAction=poweroff-force
FailureAction=poweroff-force

[Service]
Type=oneshot
ExecStart=/bin/sh /shared/outer
StandardOutput=file:/dev/ttyS1
StandardError=inherit
TimeoutStartSec=infinity
"""

_OUTER = """\
stty -F /dev/ttyS1 -opost
mkdir /result
/bin/sh -e /shared/script
echo $? > /result/code
journalctl --boot --no-pager --output=short-monotonic > /result/journal
tar --create --file=/dev/vdb --directory=/result .
sync
"""

# clearcpuid: QEMU 7.2 emulates CX16 wrongly, and the kernel of Debian 13 panics if it uses CX16. Programs need CX16 in
# CPUID, so this option hides it only from the kernel. no5lvl (page tables with four levels) and mitigations=off (no
# protection against leaks between processes) save time.
_KERNEL_LINE = (
    "root=/dev/vda rw console=ttyS0 quiet panic=-1 clearcpuid=141 no5lvl mitigations=off "
    "systemd.unified_cgroup_hierarchy=1 systemd.show_status=no fsck.mode=skip"
)
_MASKED = ("apt-daily.timer", "apt-daily-upgrade.timer", "e2scrub_all.timer", "e2scrub_reap.service")

_IMAGE_GIB = 4
_RESULT_MIB = 64
_STEP_S = 120
_CONSOLE_LINES = 20


def boot(root: Path, folder: Path, script: str, *, seconds: float) -> int:
    """Boot the machine, run a shell script, print its output as it comes, and return its exit code.

    `root` must contain the folder /shared. The disks and the console are files in `folder`. Raises TimeoutError after
    `seconds`, and RuntimeError if the machine ended without a result.
    """
    (root / "shared/script").write_text(script)
    (root / "shared/outer").write_text(_OUTER)
    units = root / "etc/systemd/system"
    (units / "promptlog-test.service").write_text(_UNIT)
    (units / "multi-user.target.wants").mkdir(exist_ok=True)
    (units / "multi-user.target.wants/promptlog-test.service").symlink_to("../promptlog-test.service")
    for unit in _MASKED:
        (units / unit).symlink_to("/dev/null")
    image, result, console, output = (folder / name for name in ("image", "result", "console", "output"))
    for disk, size in ((image, _IMAGE_GIB << 30), (result, _RESULT_MIB << 20)):
        disk.touch()
        os.truncate(disk, size)
    command = ["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-d", str(root), str(image)]
    subprocess.run(command, check=True, timeout=_STEP_S)
    output.touch()
    command = ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "2048"]
    command += ["-nodefaults", "-display", "none", "-no-reboot", "-nic", "none"]
    command += ["-kernel", str(_newest(root, "vmlinuz")), "-initrd", str(_newest(root, "initrd.img"))]
    command += ["-append", _KERNEL_LINE]
    for disk in (image, result):
        command += ["-drive", f"file={disk},format=raw,if=virtio,cache=unsafe"]
    command += ["-serial", f"file:{console}", "-serial", f"file:{output}"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        _follow(process, output, time.monotonic() + seconds)
    except TimeoutError:
        print(_tail(console), file=sys.stderr)
        raise
    finally:
        process.kill()
        process.wait()
    try:
        with tarfile.open(result) as tar:
            tar.extractall(folder, filter="data")
        return int((folder / "code").read_text())
    except (tarfile.TarError, OSError):
        raise RuntimeError(f"the machine ended without a result: {_tail(console)}") from None


def _newest(root: Path, name: str) -> Path:
    (path,) = (root / "boot").glob(f"{name}-*")
    return path


def _follow(process: subprocess.Popen[bytes], output: Path, deadline: float) -> None:
    with output.open("rb") as file:
        while True:
            ended = process.poll() is not None
            sys.stdout.buffer.write(file.read())
            sys.stdout.buffer.flush()
            if ended:
                return
            if time.monotonic() > deadline:
                raise TimeoutError("the machine did not finish in time")
            time.sleep(0.2)


def _tail(console: Path) -> str:
    text = console.read_bytes().decode("utf-8", "replace") if console.exists() else ""
    return os.linesep.join(text.splitlines()[-_CONSOLE_LINES:])
