"""Output for terminals: width, styles, escaping, tables."""

from __future__ import annotations

import os
import sys
import textwrap
import unicodedata
from collections.abc import Sequence
from typing import Any, TextIO

import click

_GAP = "  "
"""Between the columns of a table."""


def safe(text: str, *, lines: bool = False, code: str | None = None) -> str:
    """Escape control characters, so that text cannot control a terminal. `lines`: keep line breaks.

    `code`: format of an escape, for example JSON's. Default: Python's.
    """
    kept = "\t\n" if lines else "\t"

    def escape(character: str) -> str:
        if character.isprintable() or character in kept:
            return character
        if code is not None and ord(character) < 0x10000:
            return code.format(ord(character))
        return character.encode("unicode_escape", "surrogatepass").decode("ascii")

    return "".join(map(escape, text))


def styled(text: str, stream: TextIO, **style: Any) -> str:
    """Apply a style of click, if the stream is a terminal with styles and $NO_COLOR is not set.

    https://no-color.org
    """
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return click.style(text, **style) if stream.isatty() and not plain else text


def columns(stream: TextIO) -> int | None:
    """Return the width of a stream's terminal, in cells; None if it is not a terminal."""
    if not stream.isatty():
        return None
    wanted = os.environ.get("COLUMNS", "")
    if wanted.isdecimal() and 0 < int(wanted) < 10_000:
        return int(wanted)
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except OSError:
        return 80


def say(text: str | bytes) -> None:
    """Print a line on stderr. A line that can't be written is lost; the exit code does not change."""
    try:
        click.echo(text, err=True)
    except OSError:
        discard_output(sys.stderr)


def discard_output(stream: TextIO) -> None:
    """Redirect a stream to /dev/null. Otherwise Python fails at exit, when it flushes the buffer."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def excerpt(text: str, at: int, width: int) -> tuple[str, int]:
    """Return the part of a line around the index `at`, at most `width` cells wide, and the cells before that index."""
    # A line may have a million characters, or only zero-width characters.
    first = max(0, at - 2 * width)
    text, at = text[first : at + 2 * width], at - first
    shown = [safe(character) for character in text]
    cells = [sum(map(_cells, one)) for one in shown]
    start, before = at, 0
    whole = sum(cells) <= width
    while start > 0 and (whole or before + cells[start - 1] <= width // 2):
        start -= 1
        before += cells[start]
    end, taken = at, before
    while end < len(shown) and taken + cells[end] <= width:
        taken += cells[end]
        end += 1
    return "".join(shown[start:end]), before


def _cells(character: str) -> int:
    """Return the width of a character in terminal cells."""
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    cut: bool = True,
    optional: Sequence[str] = (),
    wrap: bool = False,
) -> None:
    """Print rows: aligned under a header on a terminal, tab-separated otherwise.

    If a terminal is too narrow, the `optional` columns are omitted, in this order. Then lines are cut, or with `wrap`
    the last column continues on the next line. `cut=False`: lines may be wider than the terminal.
    """
    most = columns(sys.stdout)
    if most is None:
        for row in rows:
            click.echo("\t".join(row))
        return
    widths = {name: max(len(row[i]) for row in [header, *rows]) for i, name in enumerate(header)}
    if cut:
        for name in optional:
            if sum(widths.values()) + len(_GAP) * (len(widths) - 1) <= most:
                break
            del widths[name]
    shown = [header.index(name) for name in widths]
    before = sum(list(widths.values())[:-1]) + len(_GAP) * (len(widths) - 1)
    for index, row in enumerate([header, *rows]):
        cells = [row[i] for i in shown]
        last = textwrap.wrap(cells[-1], max(most - before, 8)) or [""] if wrap else [cells[-1]]
        first = _GAP.join(
            [cell.ljust(width) for cell, width in zip(cells[:-1], widths.values(), strict=False)] + last[:1]
        )
        for line in (first.rstrip(), *(" " * before + more for more in last[1:])):
            text = clipped(line) if cut else line
            click.echo(styled(text, sys.stdout, bold=True) if index == 0 else text)


def clipped(line: str) -> str:
    """Return a line for standard output, cut at the width of its terminal."""
    most = columns(sys.stdout)
    return line if most is None or len(line) <= most else line[: most - 1] + "\u2026"
