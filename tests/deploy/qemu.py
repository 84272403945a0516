"""Boots a root with QEMU, without KVM, and runs one script in it, to test with a kernel that uses cgroup version 2.

The root must contain a kernel. The machine has no network. Its first serial port is the console, and its second one
receives the output of the script. The machine writes the results as a tar file to its second disk.
"""

from __future__ import annotations

import os
import subprocess
import tarfile
from contextlib import suppress
from pathlib import Path

from tests.deploy import job

_BEFORE = "stty -F /dev/ttyS1 -opost"
_AFTER = """\
tar --create --file=/dev/vdb --directory=/result .
sync"""

# clearcpuid: QEMU 7.2 emulates CX16 wrongly, and the kernel of Debian 13 panics if it uses CX16. Programs need CX16 in
# CPUID, so this option hides it only from the kernel. no5lvl (page tables with four levels) and mitigations=off (no
# protection against leaks between processes) save time.
_KERNEL_LINE = (
    "root=/dev/vda rw console=ttyS0 quiet panic=-1 clearcpuid=141 no5lvl mitigations=off "
    "systemd.unified_cgroup_hierarchy=1 systemd.show_status=no fsck.mode=skip"
)
_MASKED = (
    *("apt-daily.timer", "apt-daily-upgrade.timer", "e2scrub_all.timer", "e2scrub_reap.service"),
    *("systemd-tmpfiles-clean.timer", "man-db.timer", "dpkg-db-backup.timer"),
    # It loads modules for all devices, and takes half of the boot. The login on the console waits for it.
    *("systemd-udev-trigger.service", "serial-getty@ttyS0.service"),
)

_IMAGE_GIB = 4
_RESULT_MIB = 64
_STEP_S = 120


def boot(root: Path, folder: Path, script: str, *, seconds: float) -> int:
    """Boot a root, run a script in it, and return the script's exit code: a `command.Boot`."""
    job.put(root, script, output="file:/dev/ttyS1", action="poweroff-force", before=_BEFORE, after=_AFTER)
    for unit in _MASKED:
        (root / "etc/systemd/system" / unit).symlink_to("/dev/null")
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
        job.follow(process, output, seconds=seconds)
    finally:
        process.kill()
        process.wait()
    with suppress(tarfile.TarError), tarfile.open(result) as tar:
        tar.extractall(folder, filter="data")
    return job.exit_code(folder, console)


def _newest(root: Path, name: str) -> Path:
    (path,) = (root / "boot").glob(f"{name}-*")
    return path
