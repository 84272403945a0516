"""The shell and Python transcripts of the documents: each command prints what the document shows."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from promptlogctl.client import Client
from tests.ctl.terminal import terminal
from tests.daemon.processes import a_daemon, until
from tests.upkeep.old_programs import put_old

ROOT = Path(__file__).parents[2]
_NEEDS_MORE = re.compile(
    r"make |python3 -m venv|\S+/pip |.* &$|socat|promptlogctl (http|play|canary)|curl |cat prompts"
)
"""Commands that other tests cover, or whose set-up the fixtures have done."""

_VOLATILE = [
    (re.compile(r'"timestamp":"[^"]*"'), '"timestamp":"..."'),
    (re.compile(r"\d+\.\d+ (ms|MiB)"), r"N \1"),
]

_VOLATILE_FOR_OPERATORS = [
    *_VOLATILE,
    (re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d[+-]\d\d:\d\d)?"), "TIME"),
    (re.compile(r"\b\d+\.\d+\b"), "N"),
    (re.compile(r"(TIME +|uid +)\d+"), r"\1UID"),
    (re.compile(r"(memory bytes +|prompt digest +)\S+"), r"\1N"),
    (re.compile(r"[ \t\r]*\n"), "\n"),
    (re.compile(r"[ \t]+"), " "),  # the width of a column depends on its values
]
_NUMBER = re.compile(r"\b\d+\b|-(?=[ \n])")
"""What differs in a snapshot of `top`: numbers, and `-` for a missing number."""

_NOTED = re.compile(r"promptlogctl (submit|run|exec) ")
"""Commands that add an entry to the journal."""


def _commands(document: str) -> Iterator[tuple[str, str]]:
    """Yield each command of a document's transcripts with the output that the document shows."""
    text = (ROOT / document).read_text("utf-8")
    for block in re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, printed = part.partition("\n")
            while command.endswith("\\"):
                more, _, printed = printed.partition("\n")
                command = command[:-1] + more
            if not _NEEDS_MORE.search(command):
                yield command, printed


def _steady(text: str, volatile: list[tuple[re.Pattern[str], str]] = _VOLATILE) -> str:
    for pattern, steady in volatile:
        text = pattern.sub(steady, text)
    return text.rstrip("\n")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the examples and with promptlogctl in bin/."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin/promptlogctl"
    command.write_text(f'#!/bin/sh\nexec {shlex.join([sys.executable, "-m", "promptlogctl"])} "$@"\n')
    command.chmod(0o755)
    return tmp_path


@pytest.mark.parametrize(("document", "least"), [("README.md", 2), ("docs/cli.md", 8)])
def test_transcripts(socket_path: Path, folder: Path, document: str, least: int) -> None:
    """Each command prints what the document shows, except for times and sizes."""
    environment = {
        **os.environ,
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "PROMPTLOG_SOCKET": str(socket_path),
        "PYTHONPATH": str(ROOT),
    }
    commands = list(_commands(document))
    assert len(commands) >= least
    for command, printed in commands:
        done = subprocess.run(
            ["bash", "-c", f"({command}) 2>&1"],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert _steady(done.stdout) == _steady(printed), command


@pytest.mark.parametrize(
    ("document", "least"), [("docs/journal.md", 6), ("docs/operations/monitor.md", 3), ("docs/operations/store.md", 3)]
)
def test_transcripts_of_operators(folder: Path, document: str, least: int) -> None:
    """On a terminal, with a new daemon and two old programs, each command prints what the document shows, except for
    times, sizes and the width of columns."""
    put_old(folder / "state", [b"return 1", b"return 2"], days=40)
    commands = list(_commands(document))
    assert len(commands) >= least
    variables = {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
    noted = 0
    with a_daemon(folder) as daemon, Client(daemon.socket) as client:
        for command, printed in commands:
            if _NOTED.match(command):
                noted += 1
            else:
                until(lambda: _entries(client) >= noted)  # noqa: B023  # called at once
            line = f"cd {shlex.quote(str(folder))} && {command}"
            with terminal(daemon.socket, "bash", "-c", line, columns=120, variables=variables) as shown:
                seen, expected = (_steady(text, _VOLATILE_FOR_OPERATORS) for text in (shown.rest(), printed))
            if "top" in command:
                seen, expected = (_NUMBER.sub("N", text) for text in (seen, expected))
            assert seen == expected, command


def _entries(client: Client) -> int:
    """Return the number of entries in the file of the journal, which is written once a second."""
    counts = client.stats().journal
    assert counts is not None
    return counts.rows


@pytest.mark.parametrize("document", ["README.md", "docs/clients.md", "docs/protocol.md"])
def test_python_examples(socket_path: Path, tmp_path: Path, document: str) -> None:
    """The Python example prints what its comment says."""
    text = (ROOT / document).read_text("utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    code = code.replace("/run/promptlog/promptlog.sock", str(socket_path))
    (expected,) = re.findall(r"^ *print\(.*\)  # (.*)$", code, re.MULTILINE)
    environment = {**os.environ, "PROMPTLOG_SOCKET": str(socket_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == (f"{expected}\n", "")
