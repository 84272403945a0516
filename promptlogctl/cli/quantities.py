"""Ages and sizes in arguments: 30d, 1G."""

from __future__ import annotations

import re
from typing import Any

import click

UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_AGE = re.compile(rf"(\d{{1,9}})({'|'.join(UNITS_S)})")
_SIZE = re.compile(r"(\d{1,12})([KMGT]?)(?:i?B)?")
_UNITS_BYTES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_MOST_BYTES = 2**53 - 1


def age_s(text: str) -> int | None:
    """Return an age such as 90s, 30m, 1h, 2d or 3w in seconds, or None if the text is not an age."""
    age = _AGE.fullmatch(text)
    return None if age is None else int(age[1]) * UNITS_S[age[2]]


class Age(click.ParamType[int]):
    """An age, in seconds."""

    name = "age"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the seconds. Fails with what would be right."""
        if isinstance(value, int):
            return value
        seconds = age_s(value)
        if seconds is None:
            self.fail(f"{value!r} is no age: give a number and a unit, as 90s, 30m, 12h, 30d or 8w", param, ctx)
        return seconds


class Size(click.ParamType[int]):
    """A size, in bytes. The units are powers of 1024."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the bytes. Fails with what would be right."""
        if isinstance(value, int):
            return value
        size = _SIZE.fullmatch(value.upper().replace("IB", "iB"))
        if size is None or int(size[1]) * _UNITS_BYTES[size[2]] > _MOST_BYTES:
            self.fail(f"{value!r} is no size: give a number of bytes, or one with a unit, as 500M or 1G", param, ctx)
        return int(size[1]) * _UNITS_BYTES[size[2]]


def shown(size: int) -> str:
    """Format a size in bytes."""
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size} bytes"
