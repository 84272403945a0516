"""The command line on a terminal: width, colours, prompts, and streams that can't be written."""

from __future__ import annotations

import json
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import click
import pytest

from promptlogctl.cli import cli
from promptlogctl.cli.terminal import excerpt
from promptlogctl.client import Client
from tests.ctl.command import ctl
from tests.ctl.terminal import terminal
from tests.daemon.processes import until

_CTL = [sys.executable, "-m", "promptlogctl"]


def _shown(socket: Path, *arguments: str, columns: int = 80, variables: dict[str, str] | None = None) -> str:
    with terminal(socket, *_CTL, *arguments, columns=columns, variables=variables) as opened:
        return opened.rest()


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_no_line_is_wider_than_the_terminal(socket_path: Path, columns: int) -> None:
    """Lists and source excerpts fit into the terminal, and the caret is below its character."""
    name = "n" * 60
    assert ctl(socket_path, "submit", "-", "--name", name, input=b"return 'wide'").returncode == 0
    listed = _shown(socket_path, "list", columns=columns, variables={"NO_COLOR": "1"}).splitlines()
    assert max(map(len, listed)) <= columns
    failed = _shown(socket_path, "exec", "-e", "1 + 1;" * 60 + "null.x" + ";1 + 1" * 60, columns=columns)
    line, caret = failed.splitlines()[1:3]
    assert max(len(line), len(caret)) < columns
    assert line[caret.index("^") :].startswith("x;1")


def test_no_trunc_shows_whole_hashes(socket_path: Path) -> None:
    """On a terminal a list shows 12 digits of each hash; with --no-trunc or in a pipe it shows all digits."""
    hash = ctl(socket_path, "submit", "-", input=b"return 'whole hash'").stdout.decode().strip()
    listed = _shown(socket_path, "ls", columns=120)
    assert hash[:12] in listed
    assert hash not in listed
    assert hash in _shown(socket_path, "list", "--no-trunc", columns=120)
    assert hash.encode() in ctl(socket_path, "list").stdout


@pytest.mark.parametrize(("variables", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_colours(socket_path: Path, variables: dict[str, str], coloured: bool) -> None:
    """An error is coloured, unless $NO_COLOR is set or the terminal has no colours."""
    assert ("\x1b[" in _shown(socket_path, "run", "@nobody", variables=variables)) is coloured


def test_no_prompt_is_read_from_a_terminal(socket_path: Path) -> None:
    """A command without a prompt does not wait for input from a terminal."""
    assert "0" in _shown(socket_path, "exec", "-e", "return prompt.length")


def test_a_piped_prompt_is_read(socket_path: Path, tmp_path: Path) -> None:
    """The prompt is read from a pipe, a socket or a file, unless an option gives it or the program comes from stdin."""
    code = ("exec", "-e", "return prompt")
    assert ctl(socket_path, *code, input="ä b\n".encode()).stdout.decode() == '"ä b\\n"\n'
    assert ctl(socket_path, *code, "--prompt", "", input=b"not read").stdout == b'""\n'
    (tmp_path / "prompt").write_text("of a file")
    with open(tmp_path / "prompt", "rb") as file:
        done = subprocess.run([*_CTL, *code, "--socket", str(socket_path)], stdin=file, capture_output=True, timeout=60)
    assert done.stdout == b'"of a file"\n'
    here, there = socket.socketpair()
    with here, there:
        here.sendall(b"of a socket")
        here.shutdown(socket.SHUT_WR)
        command = [*_CTL, *code, "--socket", str(socket_path)]
        done = subprocess.run(command, stdin=there.fileno(), capture_output=True, timeout=60)
    assert done.stdout == b'"of a socket"\n'
    assert ctl(socket_path, "exec", "-", input=b"return [prompt]").stdout == b'[""]\n'


def test_a_note_says_that_a_prompt_is_awaited(socket_path: Path) -> None:
    """If a pipe is silent, a note says that the command waits for the prompt, and later input is the prompt."""
    command = [*_CTL, "exec", "-e", "return prompt", "--socket", str(socket_path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stderr.readline().startswith("note: waiting for the prompt on standard input")
        process.stdin.write("late")
        process.stdin.close()
        assert process.stdout.read() == '"late"\n'


def test_console_lines_are_shown_during_the_run(socket_path: Path) -> None:
    """A console line is shown before the run ends, and stays on the screen after Ctrl-C."""
    code = "console.log('first'); for (;;);"
    command = [*_CTL, "exec", "-e", code, "--cpu-ms", "9000", "--wall-ms", "9000"]
    with terminal(socket_path, *command) as opened:
        opened.read("first")
        opened.type("\x03")
        assert "cancelled" in opened.rest()
        assert opened.process.returncode == 3


def test_options_before_the_command(socket_path: Path, tmp_path: Path) -> None:
    """--socket and --json may precede the command; an option after the command takes precedence."""
    nowhere = str(tmp_path / "none")
    done = subprocess.run([*_CTL, "--socket", str(socket_path), "--json", "ping"], capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert b'"protocol"' in done.stdout
    assert ctl(nowhere, "--socket", str(socket_path), "ping").returncode == 0
    assert ctl(socket_path, "--socket", nowhere, "ping").returncode == 4
    assert ctl(nowhere, "--socket", nowhere, "ping", "--socket", str(socket_path)).returncode == 0


def test_options_of_a_group_before_its_command(client: Client, socket_path: Path, tmp_path: Path) -> None:
    """The global options work between the name of a group of commands and its command. `log` is the only group."""
    names = cli.list_commands(click.Context(cli))
    assert [name for name in names if isinstance(cli.get_command(click.Context(cli), name), click.Group)] == ["log"]
    client.run_source("return 1")
    until(lambda: bool(list(client.journal())))
    number, nowhere, socket = str(next(client.journal()).id), str(tmp_path / "none"), str(socket_path)
    assert ctl(nowhere, "log", "show", number).returncode == 4
    done = ctl(nowhere, "log", "--socket", socket, "--json", "show", number)
    assert json.loads(done.stdout)["id"] == int(number)
    assert ctl(socket, "log", "--socket", nowhere, "show", number).returncode == 4
    assert ctl(nowhere, "--socket", nowhere, "log", "--socket", socket, "show", number).returncode == 0
    assert ctl(nowhere, "log", "--socket", nowhere, "show", number, "--socket", socket).returncode == 0
    done = ctl(socket, "log", "--spawn", "--state-dir", nowhere, "show", number)
    assert b"--state-dir is ignored" in done.stderr
    assert done.returncode == 0


def test_forms_of_env(socket_path: Path, tmp_path: Path) -> None:
    """--env accepts NAME=TEXT, JSON objects and files together, and the last value of a name wins."""
    (tmp_path / "env.json").write_text('{"c": [3], "a": "file"}')
    given = ("--env", f"@{tmp_path / 'env.json'}", "--env", "a=x=y", "--env", '{"b": {"d": 1}}')
    done = ctl(socket_path, "exec", "-e", "return env", *given)
    assert done.stdout == b'{"c":[3],"a":"x=y","b":{"d":1}}\n', done.stderr
    for wrong in ("[1]", "=x", "name", '{"a":'):
        done = ctl(socket_path, "exec", "-e", "return env", "--env", wrong)
        assert (done.returncode, b"neither NAME=TEXT nor a JSON object" in done.stderr) == (2, True), wrong


def test_remove_several(socket_path: Path) -> None:
    """remove accepts several programs, and needs --force if it would remove further names."""
    first, second = (
        ctl(socket_path, "submit", "-", "--name", f"gone-{number}", input=f"return 'gone {number}'".encode())
        for number in range(2)
    )
    hashes = [done.stdout.decode().strip() for done in (first, second)]
    refused = ctl(socket_path, "rm", *hashes)
    assert refused.returncode == 2
    assert b"also has @gone-0, which would be removed too; use --force to remove it" in refused.stderr
    in_four_ways = ctl(socket_path, "rm", "@gone-0", hashes[0], hashes[0][:10], hashes[0][:8])
    assert (in_four_ways.returncode, in_four_ways.stdout.decode().split()) == (0, hashes[:1])
    assert ctl(socket_path, "rm", hashes[1], "--force").stdout.decode().split() == hashes[1:]
    assert ctl(socket_path, "rm", *hashes).returncode == 5


def test_exec_keeps_nothing_unless_asked(socket_path: Path) -> None:
    """exec keeps no program; exec --keep does, except for a syntax error, whose JSON is the same in both cases."""
    with Client(socket_path) as client:
        before = client.stats().programs
        assert ctl(socket_path, "exec", "-e", "return 'exec keeps'").returncode == 0
        assert client.stats().programs == before
        assert ctl(socket_path, "exec", "--keep", "-e", "return 'exec keeps'").returncode == 0
        assert client.stats().programs == before + 1
        answers = [ctl(socket_path, "exec", "-e", "let x = ;", "--json", *keep) for keep in ((), ("--keep",))]
        assert client.stats().programs == before + 1
    kinds = [re.findall(rb'"outcome":(\{[^}]*\})', answer.stdout) for answer in answers]
    assert kinds[0] == kinds[1]
    assert b'"syntax_error"' in kinds[0][0]
    assert [answer.returncode for answer in answers] == [1, 1]
    for wrong in ((), ("-e", "return 1", "file.js")):
        assert ctl(socket_path, "exec", *wrong).returncode == 2


@pytest.mark.parametrize("closed", [0, 1, 2])
def test_closed_streams(socket_path: Path, closed: int) -> None:
    """A closed standard stream causes no traceback: the exit code is the run's, or 6 if the result can't be written."""
    for code, exit_code in (("return 1", 6 if closed == 1 else 0), ("throw new Error('no')", 1)):
        script = f"exec {closed}>&-; exec {shlex.join([*_CTL, 'exec', '-e', code, '--socket', str(socket_path)])}"
        done = subprocess.run(["bash", "-c", script], capture_output=True, timeout=60, stdin=subprocess.DEVNULL)
        assert done.returncode == exit_code, done
        assert b"Traceback" not in done.stdout + done.stderr


def test_stderr_on_a_full_disk(socket_path: Path) -> None:
    """If stderr can't be written, the result and the exit code are unchanged."""
    for code, exit_code, stdout in (("console.log(1); return 1", 0, b"1\n"), ("throw new Error('no')", 1, b"")):
        command = [*_CTL, "exec", "-e", code, "--socket", str(socket_path)]
        with open("/dev/full", "wb") as full:
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=full, stdin=subprocess.DEVNULL, timeout=60)
        assert (done.returncode, done.stdout) == (exit_code, stdout)
    with open("/dev/full", "wb") as full:
        done = subprocess.run([*_CTL, "--version"], stdout=full, stderr=subprocess.PIPE, timeout=60)
    assert (done.returncode, done.stderr) == (6, b"error: can't write the output: No space left on device\n")


@pytest.mark.parametrize(
    ("text", "at", "width", "shown"),
    [
        ("abc", 1, 10, ("abc", 1)),
        ("a" * 50 + "X" + "b" * 50, 50, 11, ("aaaaaXbbbbb", 5)),
        ("\u6f22" * 30 + "X" + "b" * 30, 30, 9, ("\u6f22\u6f22Xbbbb", 4)),
        ("\x1b" * 5 + "X", 5, 12, ("\\x1bX", 4)),
        ("ab", 2, 10, ("ab", 2)),
    ],
)
def test_excerpts(text: str, at: int, width: int, shown: tuple[str, int]) -> None:
    """An excerpt contains the given character and fits into the given width, counted in terminal cells."""
    assert excerpt(text, at, width) == shown
