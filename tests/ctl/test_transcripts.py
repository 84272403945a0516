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

ROOT = Path(__file__).parents[2]
_NEEDS_MORE = re.compile(
    r"make |python3 -m venv|\S+/pip |.* &$|socat|promptlogctl (http|play|canary)|curl |cat prompts"
)
"""Commands that other tests cover, or whose set-up the fixtures have done."""

_VOLATILE = [
    (re.compile(r'"timestamp":"[^"]*"'), '"timestamp":"..."'),
    (re.compile(r"\d+\.\d+ (ms|MiB)"), r"N \1"),
]


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


def _steady(text: str) -> str:
    for volatile, steady in _VOLATILE:
        text = volatile.sub(steady, text)
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
