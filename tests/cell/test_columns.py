"""Lines and columns of a program's text, compared with a simple implementation."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.engines.host.columns import Text

_TEXTS = st.text(alphabet="ab\t\n\r\u2028\u2029é漢\U0001f600", max_size=60).map(lambda text: text * 40)


def _units(text: str) -> int:
    return len(text.encode("utf-16-le")) // 2


@given(_TEXTS, st.integers(1, 3000), st.integers(1, 80))
def test_columns_of_bytes(text: str, line: int, column: int) -> None:
    """A byte column is converted to UTF-16 code units; a column past the line's end becomes the line's end."""
    lines = text.encode().split(b"\n")
    own = lines[line - 1] if line <= len(lines) else b""
    before = own[: column - 1].decode("utf-8", "replace")
    assert Text(text.encode()).of_bytes(line, column) == _units(before) + 1


@pytest.mark.parametrize("v8", [True, False])
@given(text=_TEXTS, number=st.integers(0, 3000))
def test_deno_lines_are_converted(v8: bool, text: str, number: int) -> None:
    """A place that Deno counts with its own line terminators is the same character when only line feeds count."""
    ends = "\r\n|[\n\r\u2028\u2029]" if v8 else "\r\n|[\n\r]"
    starts = [0, *(found.end() for found in re.finditer(ends, text))]
    number %= len(starts)
    before = text[: starts[number]]
    own = before.count("\n") + 1, _units(before[before.rfind("\n") + 1 :]) + 5
    source = Text(text.encode())
    assert source.of_deno(number + 1, 5, v8=v8) == own
    lines = text.count("\n") + 1
    assert [source.has_line(line) for line in (0, 1, lines, lines + 1)] == [False, True, True, False]
    assert source.end() == (lines, _units(text[text.rfind("\n") + 1 :]) + 1)


def test_places_past_the_end() -> None:
    """A line after the end becomes the end of the text; a line before the first stays unchanged."""
    source = Text("a\rb\n漢".encode())
    assert source.of_bytes(99, 5) == 1
    assert source.of_deno(99, 1, v8=True) == (2, 2)
    assert source.of_deno(0, 1, v8=True) == (0, 1)
    assert Text(b"").of_deno(1, 1, v8=True) == (1, 1)


def test_conversion_has_a_budget() -> None:
    """After a bounded amount of text, columns stay as the engine reported them."""
    source = Text("漢".encode() * 250_000)
    found = [source.of_bytes(1, 750_001) for _ in range(3)]
    assert found == [250_001, 750_001, 750_001]
    assert Text("漢".encode() * 250_000).of_characters(1, 200_001) == 200_001
    assert Text("漢\t".encode() * 20_000).of_characters(1, 4) == 3
    assert Text(b"\t" * 1_000_000).of_characters(1, 900_001) == 900_001


@pytest.mark.parametrize(("unit", "end"), [(b"\n", b""), (b"x", b""), (b"x", b"\n")])
def test_a_place_needs_no_scan_of_the_whole_text(unit: bytes, end: bytes) -> None:
    """Thousands of places, at line ends and far past them, take about as long as the first one."""
    source = Text(unit * 4_000_000 + end)
    lines = (unit * 4_000_000 + end).count(b"\n") + 1
    began = time.process_time()
    for place in range(1, 2000):
        source.of_bytes(max(1, lines - place), 999_999_999)
        source.of_bytes(min(place, lines), 999_999_999)
        source.of_characters(min(place, lines), 999_999_999)
    assert time.process_time() - began < 0.3  # measured: 0.05 s; 0.4 to 11 s with a scan for each place


def test_a_search_for_a_line_end_uses_the_budget() -> None:
    """Places far into a long line use up the budget, even if the line is too long for a column."""
    source = Text("漢".encode() * 100 + b"\n" + b"x" * (4 << 20))
    assert source.of_bytes(1, 301) == 101
    for _ in range(1000):
        source.of_bytes(2, 999_999_999)
    assert source.of_bytes(1, 301) == 301


def test_the_number_of_indexed_lines_is_bounded() -> None:
    """A line beyond the bound keeps the engine's column; lines before it are converted, before and after that."""
    line = "漢\n".encode()
    source = Text(line * 1_000_000)
    assert source.of_bytes(1000, 4) == 2
    assert source.of_bytes(250_000, 4) == 2
    assert source.of_bytes(900_000, 4) == 4
    assert source.of_bytes(250_000, 4) == 2
    assert source.has_line(250_000)
    assert source.has_line(2_000_000)  # unknown, because the line is beyond the bound
    assert not source.has_line(0)
    assert source.end() is None


def test_a_text_of_the_default_limit_is_fully_indexed() -> None:
    """In a text of 1 MiB, each line has its columns, and a line past the end is known not to exist."""
    source = Text("漢\n".encode() * (1 << 18))
    assert source.of_bytes(1 << 18, 4) == 2
    assert source.end() == ((1 << 18) + 1, 1)
    assert not source.has_line((1 << 18) + 2)


def test_a_long_text_keeps_denos_lines() -> None:
    """Other line terminators are searched only in texts up to a bounded size."""
    short, long = ("a\rb\n" * count for count in (1000, 50_000))
    assert Text(short.encode()).of_deno(3, 1, v8=True) == (2, 1)
    assert Text(long.encode()).of_deno(3, 1, v8=True) == (3, 1)
