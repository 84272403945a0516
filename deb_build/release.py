"""The releases of Debian that packages are made for."""

from __future__ import annotations

import msgspec


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """One release of Debian."""

    name: str
    number: int
    python: str
    """Version of its Python, for example 3.11."""

    @property
    def next_python(self) -> str:
        """The next minor version of Python, which the package does not support."""
        major, minor = self.python.split(".")
        return f"{major}.{int(minor) + 1}"


RELEASES = {
    release.name: release
    for release in (
        Release(name="bookworm", number=12, python="3.11"),
        Release(name="trixie", number=13, python="3.13"),
    )
}
