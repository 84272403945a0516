"""Tables on terminals of different widths."""

from __future__ import annotations

import pytest

from promptlogctl.cli import terminal

_HEADER = ["HASH", "BYTES", "CREATED", "NAMES"]
_ROW = ["8373f7e086bb", "8", "2026-11-30 23:12", "@reverse"]


@pytest.mark.parametrize(
    ("width", "header"),
    [(80, "HASH BYTES CREATED NAMES"), (40, "HASH BYTES NAMES"), (22, "HASH NAMES"), (16, "HASH N…")],
)
def test_optional_columns_are_omitted_first(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int, header: str
) -> None:
    """A narrow terminal gets the table without the optional columns, and no line is wider than the terminal."""
    monkeypatch.setattr(terminal, "columns", lambda _: width)
    terminal.table(_HEADER, [_ROW], optional=["CREATED", "BYTES"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == header.split()
    assert max(map(len, lines)) <= width
    terminal.table(_HEADER, [_ROW], optional=["CREATED", "BYTES"], cut=False)
    assert capsys.readouterr().out.splitlines()[1].split() == " ".join(_ROW).split()


def test_the_last_column_wraps(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With `wrap`, a long text continues on the next lines of its column, and no part of it is lost."""
    monkeypatch.setattr(terminal, "columns", lambda _: 30)
    text = "enforced by a memory cgroup for each cell"
    terminal.table(["A", "B"], [["limit", text], ["empty", ""]], wrap=True)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 30
    assert " ".join(line[7:] for line in lines[1:-1]) == text
    assert all(line.startswith(" " * 7) for line in lines[2:-1])


def test_a_pipe_gets_each_column(capsys: pytest.CaptureFixture[str]) -> None:
    """In a pipe, the table has all columns and no header."""
    terminal.table(_HEADER, [_ROW], optional=["CREATED", "BYTES"], wrap=True)
    assert capsys.readouterr().out == "\t".join(_ROW) + "\n"
