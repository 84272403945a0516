"""Closed standard streams, output that can't be written, and Ctrl-C while a command starts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ctl.command import ctl as _ctl


@pytest.mark.parametrize("arguments", [["list"], ["ping"], ["ping", "--json"], ["--help"], ["run", "--json"]])
@pytest.mark.parametrize("output", [">&-", ">/dev/full"])
def test_an_output_that_can_not_be_written(socket_path: Path, arguments: list[str], output: str) -> None:
    """A closed stdout and a full disk end with exit code 6 and one line on stderr, in JSON with --json."""
    assert _ctl(socket_path, "submit", "-", input=b"return 1").returncode == 0
    command = ["sh", "-c", f'exec "$@" {output}', "sh", sys.executable, "-m", "promptlogctl", *arguments]
    environment = {**os.environ, "PROMPTLOG_SOCKET": str(socket_path)}
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, env=environment, timeout=60)
    assert done.returncode == 6, done.stderr
    [line] = done.stderr.splitlines()
    if arguments == ["ping", "--json"]:
        line = json.loads(line)["error"]["message"]
    assert "can't write the output: " in line


def test_closed_stdin_and_stderr(socket_path: Path) -> None:
    """The error says that a closed stdin can't be read; with a closed stderr the exit code is unchanged."""
    environment = {**os.environ, "PROMPTLOG_SOCKET": str(socket_path)}
    for arguments, closed, code, says in (
        (["exec", "-"], "<&-", 2, b"can't read the program -: Bad file descriptor"),
        (["run", "@nobody"], "2>&-", 5, b""),
    ):
        command = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-m", "promptlogctl", *arguments]
        done = subprocess.run(command, stdin=subprocess.PIPE, capture_output=True, env=environment, timeout=60)
        assert done.returncode == code, done.stderr
        assert says in done.stderr
        assert b"Traceback" not in done.stderr


def test_help_on_a_full_stderr(socket_path: Path) -> None:
    """Without arguments, the exit code is 2 also if the help can't be written to stderr."""
    with open("/dev/full", "wb") as full:
        done = subprocess.run([sys.executable, "-m", "promptlogctl"], stdout=subprocess.PIPE, stderr=full, timeout=60)
    assert (done.returncode, done.stdout) == (2, b"")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["exec", "-e", "throw 1", "--json"], 1), (["exec", "-e", "return 1"], 0), (["run", "@nobody", "--json"], 5)],
    ids=str,
)
def test_a_reader_that_leaves(socket_path: Path, arguments: list[str], code: int) -> None:
    """If the reader closes stdout, the exit code is still that of the run or the error, and nothing is printed."""
    reading, writing = os.pipe()
    os.close(reading)
    environment = {**os.environ, "PROMPTLOG_SOCKET": str(socket_path)}
    command = [sys.executable, "-m", "promptlogctl", *arguments]
    streams = {"stdin": subprocess.DEVNULL, "stdout": writing, "stderr": subprocess.PIPE}
    done = subprocess.run(command, **streams, env=environment, timeout=60)  # type: ignore[call-overload]
    os.close(writing)
    assert (done.returncode, done.stderr) == (code, b"")


@pytest.mark.parametrize("options", [[], ["--json"]], ids=str)
def test_ctrl_c_while_starting(tmp_path: Path, options: list[str]) -> None:
    """Ctrl-C during the import of modules ends a command in the same way as Ctrl-C later."""
    script = (
        "import os, signal, sys\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'promptlogctl.cli.app':\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupt())\n"
        "from promptlogctl.__main__ import main\n"
        "main()\n"
    )
    command = [sys.executable, "-c", script, "ping", *options]
    done = subprocess.run(command, capture_output=True, timeout=60)
    assert done.returncode == 3, done.stderr
    if options:
        assert (json.loads(done.stdout)["error"]["code"], done.stderr) == ("cancelled", b"")
    else:
        assert (done.stdout, done.stderr) == (b"", b"error: cancelled\n")
