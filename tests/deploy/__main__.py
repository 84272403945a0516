"""`python -m tests.deploy bookworm trixie`: test promptlog in these releases of Debian, booted with systemd-nspawn."""

from __future__ import annotations

import sys

from tests.deploy import command, nspawn, root

# The package also installs its files in /opt/promptlog. So the first installation is removed before.
_SCRIPT = """\
code=0
check /opt/promptlog/bin/python tests/deploy/inside.py || code=1
rm -rf /opt/promptlog
check /usr/bin/python3 tests/deploy/inside_deb.py || code=1
exit $code
"""

MACHINE = command.Machine(
    name="nspawn",
    boot=nspawn.boot,
    boot_s=20,
    command_s=90,
    script=_SCRIPT,
    root_packages=root.PACKAGES,
    needs_deb=True,
    tools=("mmdebstrap", "systemd-nspawn", "chroot", "tar", "dpkg-deb"),
    tools_from="mmdebstrap systemd-container dpkg",
)

if __name__ == "__main__":
    sys.exit(command.main(MACHINE))
