"""`python -m tests.deploy.emulate bookworm trixie`: test promptlog on the kernels of these releases, in QEMU."""

from __future__ import annotations

import sys

from tests.deploy import command, qemu, root

MACHINE = command.Machine(
    name="qemu",
    boot=qemu.X86_64.boot,
    boot_s=100,
    command_s=300,
    script="check /opt/promptlog/bin/python tests/deploy/emulated.py\n",
    root_packages=(*root.PACKAGES, root.KERNEL.format(debian="amd64")),
    needs_deb=False,
    tools=("mmdebstrap", "qemu-system-x86_64", "mke2fs", "chroot", "tar"),
    tools_from="mmdebstrap qemu-system-x86",
)

if __name__ == "__main__":
    sys.exit(command.main(MACHINE))
