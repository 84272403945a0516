"""promptlogctl top: the daemon's load, live in the terminal."""

from __future__ import annotations

import os
import select
import shutil
import signal
import sys
import termios
import time
import tty
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import click

from promptlogctl.cli import output
from promptlogctl.cli.app import App, command
from promptlogctl.cli.output import Exit
from promptlogctl.cli.terminal import safe, styled
from promptlogctl.cli.top_view import lines, view
from promptlogctl.client import Client, ConnectionLost, JournalSum, NoDaemon, RequestRefused, StatsReply

_EVERY_S = 1.0
_BUSIEST = 10
_BUSIEST_EVERY_S = 2.0
"""Interval of queries of the journal, which cost more than `stats`."""
_BUSIEST_OF_S = 60.0

_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
"""Switch to the alternate screen and hide the cursor, and back (xterm's control sequences)."""
_HOME, _ERASE_LINE, _ERASE_REST = "\x1b[H", "\x1b[2K", "\x1b[J"
"""Move to the first character; erase this line; erase the rest of the screen."""


@click.command()
@command
def top(app: App) -> Exit:
    """Show the daemon's load live.

    This is: runs by outcome, durations, cells, the queue, and the busiest programs of the last minute. On a terminal,
    the display refreshes each second until q or Ctrl-C. In a pipe, with --json, or on a dumb terminal, the command
    prints one snapshot, with counts since the daemon's start.
    """
    with app.client() as client:
        stats = client.stats()
        is_live = sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        if is_live and not app.json:
            with _screen():
                _refresh(client)
            return Exit.OK
        snapshot = view(stats, None, _busiest(client))
        if app.json:
            output.as_json(snapshot)
        else:
            click.echo("\n".join(lines(snapshot, shutil.get_terminal_size().columns)))
    return Exit.OK


@contextmanager
def _screen() -> Iterator[None]:
    """Context manager: the alternate screen, and keys without echo. Ctrl-C, Ctrl-\\ and SIGTERM end the block."""
    before = termios.tcgetattr(sys.stdin)
    for number in (signal.SIGTERM, signal.SIGQUIT):  # SIGQUIT: Ctrl-\
        signal.signal(number, signal.default_int_handler)
    try:
        tty.setcbreak(sys.stdin, termios.TCSANOW)
        settings = termios.tcgetattr(sys.stdin)
        settings[6][termios.VSUSP] = b"\0"  # Ctrl-Z would leave the shell on the alternate screen
        termios.tcsetattr(sys.stdin, termios.TCSANOW, settings)
        _write(_ENTER)
        yield
    except KeyboardInterrupt:
        pass
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSANOW, before)
        _write(_LEAVE)


def _refresh(client: Client) -> None:
    """Show the load until the user types q. While the daemon is away, the reason is shown."""
    old: StatsReply | None = None
    busiest: Sequence[JournalSum] = []
    asked_at = -_BUSIEST_EVERY_S
    while True:
        try:
            new = client.stats()
            if time.monotonic() - asked_at >= _BUSIEST_EVERY_S:
                busiest, asked_at = _busiest(client), time.monotonic()
            shown = lines(view(new, old, busiest), shutil.get_terminal_size().columns)
            old = new
        except (NoDaemon, ConnectionLost, RequestRefused) as error:
            shown = [safe(str(error)), "", "trying again each second"]
        _draw(shown)
        if _quits(_EVERY_S):
            return


def _busiest(client: Client) -> Sequence[JournalSum]:
    """Return the programs with the most CPU time in the last minute. Empty if the journal is too slow."""
    try:
        return client.journal_sums(since=time.time() - _BUSIEST_OF_S)[:_BUSIEST]
    except RequestRefused:
        return []


def _draw(shown: list[str]) -> None:
    columns, rows = shutil.get_terminal_size()
    title = "promptlogctl top"
    head = f"{title}{'q: quit'.rjust(max(columns - len(title), 0))}"[:columns]
    fitting = [styled(head, sys.stdout, bold=True), *(line[:columns] for line in shown[: max(rows - 2, 0)])]
    # A line is erased before it is written: after a line of full width, the cursor stands on its last character.
    _write(_HOME + "".join(f"{_ERASE_LINE}{line}\n" for line in fitting) + _ERASE_REST)


def _quits(seconds: float) -> bool:
    """Wait this long. Return whether the user typed q, or the terminal is gone."""
    ends = time.monotonic() + seconds
    while (left := ends - time.monotonic()) > 0:
        if select.select([sys.stdin], [], [], left)[0]:
            typed = os.read(sys.stdin.fileno(), 64)
            if not typed or b"q" in typed.lower():
                return True
    return False


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
