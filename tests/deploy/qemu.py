"""Boots a root with QEMU, without KVM, and runs one script in it, to test with a kernel that uses cgroup version 2.

The root must contain a kernel. The machine has no network. It has two serial ports: the console, and one that receives
the output of the script. The machine writes the results as a tar file to its second disk.
"""

from __future__ import annotations

import os
import subprocess
import tarfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.deploy import job

_BEFORE = "stty -F {port} -opost"
_AFTER = """\
tar --create --file=/dev/vdb --directory=/result .
sync"""

# mitigations=off: no protection against leaks between processes, which takes time.
_KERNEL_LINE = (
    "root=/dev/vda rw quiet panic=-1 mitigations=off systemd.unified_cgroup_hierarchy=1 systemd.show_status=no "
    "fsck.mode=skip"
)
_MASKED = (
    *("apt-daily.timer", "apt-daily-upgrade.timer", "e2scrub_all.timer", "e2scrub_reap.service"),
    *("systemd-tmpfiles-clean.timer", "man-db.timer", "dpkg-db-backup.timer"),
    # It loads modules for all devices, and takes half of the boot. The login on the console waits for it.
    "systemd-udev-trigger.service",
)

_IMAGE_GIB = 4
_RESULT_MIB = 64
_STEP_S = 120


@dataclass(frozen=True, kw_only=True)
class Emulator:
    """A machine that QEMU emulates."""

    program: str
    options: tuple[str, ...]
    console: str
    """The first serial port, as its kernel names it."""

    output: str
    """The second one."""

    output_options: tuple[str, ...] = ()
    """The options that add the second port, if the machine has none by itself."""

    kernel_line: str = ""

    def boot(self, root: Path, folder: Path, script: str, *, seconds: float) -> int:
        """Boot a root, run a script in it, and return the script's exit code: a `command.Boot`."""
        port = f"/dev/{self.output}"
        job.put(
            root, script, output=f"file:{port}", action="poweroff-force", before=_BEFORE.format(port=port), after=_AFTER
        )
        for unit in (*_MASKED, f"serial-getty@{self.console}.service"):
            (root / "etc/systemd/system" / unit).symlink_to("/dev/null")
        image, result, console, output = (folder / name for name in ("image", "result", "console", "output"))
        for disk, size in ((image, _IMAGE_GIB << 30), (result, _RESULT_MIB << 20)):
            disk.touch()
            os.truncate(disk, size)
        command = ["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-d", str(root), str(image)]
        subprocess.run(command, check=True, timeout=_STEP_S)
        output.touch()
        command = [self.program, *self.options, "-nodefaults", "-display", "none", "-no-reboot", "-nic", "none"]
        command += ["-kernel", str(_newest(root, "vmlinuz")), "-initrd", str(_newest(root, "initrd.img"))]
        command += ["-append", f"console={self.console} {_KERNEL_LINE} {self.kernel_line}"]
        for disk in (image, result):
            command += ["-drive", f"file={disk},format=raw,if=virtio,cache=unsafe"]
        command += ["-serial", f"file:{console}", "-chardev", f"file,id=output,path={output}", *self.output_options]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        try:
            job.follow(process, output, seconds=seconds)
        finally:
            process.kill()
            process.wait()
        with suppress(tarfile.TarError), tarfile.open(result) as tar:
            tar.extractall(folder, filter="data")
        return job.exit_code(folder, console)


X86_64 = Emulator(
    program="qemu-system-x86_64",
    options=("-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "2048"),
    console="ttyS0",
    output="ttyS1",
    output_options=("-serial", "chardev:output"),
    # clearcpuid: QEMU 7.2 emulates CX16 wrongly, and the kernel of Debian 13 panics if it uses CX16. Programs need CX16
    # in CPUID, so this option hides it only from the kernel. no5lvl (page tables with four levels) saves time.
    kernel_line="clearcpuid=141 no5lvl",
)

ARM64 = Emulator(
    program="qemu-system-aarch64",
    # icount: the machine's clock counts instructions, 1 ns each, while it computes. So limits of time hold as on a real
    # machine, however slow QEMU is. The price: one processor, and a second takes about ten.
    # pauth-impdef: a cheap algorithm for pointer authentication. That of the architecture takes most of the time.
    options=(
        *("-accel", "tcg,thread=single", "-icount", "shift=0"),
        *("-M", "virt", "-cpu", "max,pauth-impdef=on", "-m", "2048"),
    ),
    console="ttyAMA0",
    output="ttyS0",
    output_options=("-device", "pci-serial,chardev=output"),
)


def _newest(root: Path, name: str) -> Path:
    (path,) = (root / "boot").glob(f"{name}-*")
    return path
