"""Machine types that QEMU emulates, besides this host's own."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The names of a machine type."""

    machine: str
    """The kernel's name, and that of wheels."""

    debian: str


ARM64 = Architecture(machine="aarch64", debian="arm64")
