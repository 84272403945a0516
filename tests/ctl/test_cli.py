"""promptlogctl in a process of its own: output, exit codes, errors, and the private daemon."""

from __future__ import annotations

import hashlib
import json
import keyword
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest

from promptlogctl.cli import cli
from promptlogctl.cli.terminal import safe
from promptlogctl.client import Client
from promptlogd.config import Config
from tests.ctl.command import ctl as _ctl
from tests.daemon.processes import a_daemon, until

EXAMPLE = Path(__file__).parents[2] / "examples/reverse.js"
_CONTEXT = click.Context(cli)
_COMMANDS = {
    name: command for name in cli.list_commands(_CONTEXT) if (command := cli.get_command(_CONTEXT, name)) is not None
}


def test_submit_prints_only_the_hash(socket_path: Path) -> None:
    """submit prints only the SHA-256 hash of the file, and the program can be run by hash, prefix or name."""
    done = _ctl(socket_path, "submit", str(EXAMPLE), "--name", "reverse")
    hash = hashlib.sha256(EXAMPLE.read_bytes()).hexdigest()
    assert (done.stdout, done.stderr, done.returncode) == (f"{hash}\n".encode(), b"", 0)
    for reference in (hash, hash[:8], "@reverse"):
        result = json.loads(_ctl(socket_path, "run", reference, "--prompt", "hello world").stdout)
        assert (result["original"], result["reversed"], result["wordCount"]) == ("hello world", "dlrow olleh", 2)


@pytest.mark.parametrize(
    ("source", "code", "says"),
    [
        ("return 1", 0, ""),
        (
            "\n  null.x",
            1,
            "-:2:8: TypeError: Cannot read properties of null (reading 'x')\n      null.x\n           ^\n",
        ),
        ("let x = ;", 1, "-:1:9: SyntaxError: unexpected token in expression: ';'\n    let x = ;\n            ^\n"),
        ("1", 1, "no result"),
        ("for(;;){}", 3, "CPU limit of 50 ms"),
        ("return 'x'.repeat(2e6)", 3, "exceeds the limit"),
    ],
)
def test_exec_exit_codes(socket_path: Path, source: str, code: int, says: str) -> None:
    """exec reports the outcome by its exit code, and shows the source line of an error with a caret."""
    done = _ctl(socket_path, "exec", "-", input=source.encode())
    assert done.returncode == code, done.stderr
    assert says in done.stderr.decode()
    assert done.stdout == (b"1\n" if code == 0 else b"")


def test_the_file_name_decides_the_language(socket_path: Path, tmp_path: Path) -> None:
    """The same text in a .ts and a .js file runs in the language of each file, although only the first is kept."""
    text = f"return [typeof Intl, {str(tmp_path)!r}]"
    for first, second in (("a.ts", "a.js"), ("b.js", "b.ts")):
        for name in (first, second):
            (tmp_path / name).write_text(f"{text} // {first}")
            done = _ctl(socket_path, "exec", "--keep", str(tmp_path / name))
            assert done.returncode == 0, done.stderr
            assert (b'["object"' in done.stdout) == name.endswith(".ts"), (first, name)
        refused = _ctl(socket_path, "submit", str(tmp_path / second))
        assert refused.returncode == 2
        assert b"remove it first" in refused.stderr
    (tmp_path / "c.js").write_text(f"{text} // c")
    assert _ctl(socket_path, "submit", str(tmp_path / "c.js"), "--engine", "deno").returncode == 0
    assert (
        b'["object"' in _ctl(socket_path, "exec", "--keep", str(tmp_path / "c.js")).stdout
    )  # exec uses the engine that the program was kept with.


def test_console_and_usage_go_to_stderr(socket_path: Path) -> None:
    """stdout contains nothing but the result."""
    done = _ctl(socket_path, "exec", "-", "--usage", input=b"console.warn('careful'); return [1]")
    assert done.stdout == b"[1]\n"
    assert b"[warn] careful\ncpu " in done.stderr


def test_control_characters_are_escaped(socket_path: Path) -> None:
    """Control characters in messages and log lines are escaped before they reach the terminal."""
    source = b"console.log('\\u001b[2J\\u0007'); throw new Error('\\u001b]0;x\\u0007\\nfake: line')"
    done = _ctl(socket_path, "exec", "-", input=source)
    assert b"\x1b" not in done.stderr
    assert b"\x07" not in done.stderr
    assert b"\\x1b[2J" in done.stderr
    assert safe("a\u009b", code="\\u{:04x}") == "a\\u009b"
    assert safe("a\x1bb\nc\x9b\u202e") == "a\\x1bb\\nc\\x9b\\u202e"


def test_frames_of_a_recursion_are_collapsed(socket_path: Path) -> None:
    """Repeated stack frames are printed once with their number; different frames are all printed."""
    done = _ctl(socket_path, "exec", "-e", "const f = (n) => f(n + 1);\nreturn f(0)", "--cpu-ms", "2000")
    frames = done.stderr.decode().splitlines()[3:]
    assert frames[0].startswith("    at f (-e:1:")
    assert re.fullmatch(r"    \.\.\. \d+ more of this frame", frames[1])
    assert len(frames) < 5
    done = _ctl(socket_path, "exec", "-e", "const f = () => null.x;\nreturn [1].map(() => f())")
    assert sum(line.startswith("    at ") for line in done.stderr.decode().splitlines()) >= 3


def test_the_memory_limit_is_explained(socket_path: Path) -> None:
    """An allocation that fails far below the memory limit is explained, with the peak of resident memory."""
    done = _ctl(socket_path, "exec", "-e", "return new Uint8Array(60 << 20).length", "--memory-mb", "32")
    assert (done.returncode, done.stdout) == (3, b"")
    assert re.search(
        rb"limit of 32 MiB \(the peak was \d\.\d MiB resident, and a request for more was refused\)", done.stderr
    )


def test_a_file_that_is_not_utf_8(socket_path: Path, tmp_path: Path) -> None:
    """A file in UTF-8 runs; for any other file the error names the first invalid byte."""
    (tmp_path / "x.js").write_bytes(b"return '\xc3\xbf'")
    assert _ctl(socket_path, "exec", str(tmp_path / "x.js")).stdout == b'"\xc3\xbf"\n'
    (tmp_path / "x.js").write_bytes(b"return '\xff'")
    done = _ctl(socket_path, "exec", str(tmp_path / "x.js"))
    assert done.returncode == 2
    assert b"byte 8 is 0xff" in done.stderr


def test_run_suggests_exec_for_a_file(socket_path: Path, tmp_path: Path) -> None:
    """`run FILE` suggests `exec FILE` if the file exists, and suggests nothing otherwise."""
    path = tmp_path / "a file.js"
    path.write_text("return 1")
    for program in (str(path), str(tmp_path / "missing.js")):
        done = _ctl(socket_path, "run", program)
        assert done.returncode == 2
        hint = f"did you mean: promptlogctl exec '{path}'\n".encode()
        assert done.stderr.endswith(hint) is (program == str(path)), done.stderr


def test_submit_with_another_engine(socket_path: Path) -> None:
    """The error about a program that is kept for another engine names the command that removes the program."""
    text = b"return 'kept already'"
    hash = _ctl(socket_path, "submit", "-", input=text).stdout.decode().strip()
    refused = _ctl(socket_path, "submit", "-", "--engine", "deno", input=text)
    assert refused.returncode == 2
    command = refused.stderr.decode().strip().rpartition("promptlogctl ")[2].split()
    assert command == ["remove", "--force", hash]
    assert _ctl(socket_path, *command).returncode == 0
    assert _ctl(socket_path, "submit", "-", "--engine", "deno", input=text).returncode == 0
    assert _ctl(socket_path, "submit", "-", "--engine", "quickjs", input=text).returncode == 2
    assert _ctl(socket_path, "submit", "-", "--engine", "quickjs", "--replace", input=text).returncode == 0
    assert json.loads(_ctl(socket_path, "show", hash, "--json").stdout)["engine"] == "quickjs"


def test_no_color(tmp_path: Path) -> None:
    """On a terminal an error has a colour, unless $NO_COLOR is set."""
    for setting, colour in (("", True), ("1", False)):
        ours, theirs = os.openpty()
        environment = {**os.environ, "PROMPTLOG_SOCKET": str(tmp_path / "none"), "NO_COLOR": setting}
        try:
            command = [sys.executable, "-m", "promptlogctl", "ping"]
            assert subprocess.run(command, stderr=theirs, env=environment, timeout=60).returncode == 4
            assert (b"\x1b[" in os.read(ours, 4096)) is colour
        finally:
            os.close(ours)
            os.close(theirs)


def test_ping_waits_for_a_daemon(tmp_path: Path) -> None:
    """`ping --wait` succeeds as soon as a daemon starts, and fails if none starts in time."""
    assert _ctl(tmp_path / "none", "ping", "--wait", "0.3").returncode == 4
    environment = {**os.environ, "PROMPTLOG_SOCKET": str(tmp_path / "s")}
    command = [sys.executable, "-m", "promptlogctl", "ping", "--wait", "60"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as waiting:
        with a_daemon(tmp_path):
            assert waiting.stdout is not None
            assert waiting.stdout.readline().startswith("promptlogd ")
        assert waiting.wait(20) == 0


def test_the_error_without_a_daemon(tmp_path: Path) -> None:
    """Without a daemon, the error is one line that says how to start a daemon."""
    done = _ctl(tmp_path / "none", "ping")
    assert done.returncode == 4
    assert len(done.stderr.splitlines()) == 1
    assert b"promptlogd --socket" in done.stderr


def test_spawn(tmp_path: Path) -> None:
    """`--spawn` runs programs without a running daemon, and `--state-dir` keeps them for the next command."""
    state = ["--spawn", "--state-dir", str(tmp_path / "state")]
    hash = _ctl(tmp_path / "none", "submit", str(EXAMPLE), *state).stdout.decode().strip()
    done = _ctl(tmp_path / "none", "run", hash, "--prompt", "ab", *state)
    assert json.loads(done.stdout)["reversed"] == "ba"


def test_ctrl_c_ends_the_private_daemon(tmp_path: Path) -> None:
    """Ctrl-C cancels the run with exit code 3, and the private daemon and its folder are gone."""
    command = [
        sys.executable,
        "-m",
        "promptlogctl",
        "exec",
        "--spawn",
        "--keep",
        "-",
        "--cpu-ms",
        "9000",
        "--wall-ms",
        "9000",
    ]
    environment = {**os.environ, "PROMPTLOG_SOCKET": str(tmp_path / "none"), "TMPDIR": str(tmp_path)}
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )
    assert process.stdin is not None
    process.stdin.write(b"for(;;){}")
    process.stdin.close()
    process.stdin = None
    until(lambda: any(path.is_socket() for path in tmp_path.glob("promptlog-*/socket")), 20)
    (socket,) = tmp_path.glob("promptlog-*/socket")
    with Client(socket) as client:
        until(lambda: client.stats().running == 1 and client.stats().programs == 1)  # The program is kept and runs.
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == 3, stderr
    assert not list(tmp_path.glob("promptlog-*"))


@pytest.mark.parametrize("form", ["text", "json"])
def test_ctrl_c_is_reported(socket_path: Path, form: str) -> None:
    """Ctrl-C during a run is reported as one line on stderr, or with --json as one line of JSON on stdout."""
    command = [sys.executable, "-m", "promptlogctl", "exec", "-", "--cpu-ms", "9000", "--wall-ms", "9000"]
    command += ["--json"] if form == "json" else []
    environment = {**os.environ, "PROMPTLOG_SOCKET": str(socket_path)}
    with (
        Client(socket_path) as client,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
        ) as process,
    ):
        assert process.stdin is not None
        until(lambda: client.stats().running == 0)  # Wait for runs that other tests left.
        process.stdin.write(b"for(;;){}")
        process.stdin.close()
        process.stdin = None
        until(lambda: client.stats().running == 1)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=20)
    assert process.returncode == 3, stderr
    if form == "json":
        assert (json.loads(stdout)["error"]["code"], stderr) == ("cancelled", b"")
    else:
        assert (stdout, stderr) == (b"", b"error: cancelled\n")


@pytest.mark.parametrize(
    "arguments",
    [["ping"], ["stats"], ["list"], ["show", "@j"], ["run", "@j"], ["name", "j", "@j"], ["submit", "-"], ["doctor"],
     ["exec", "-"], ["completion", "bash"], ["remove", "--force", "@j"]],
    ids=lambda arguments: arguments[0],
)  # fmt: skip
def test_json_output(socket_path: Path, arguments: list[str]) -> None:
    """Every command prints one line of JSON with --json."""
    assert _ctl(socket_path, "submit", "-", "--name", "j", input=b"return 1").returncode == 0
    done = _ctl(socket_path, *arguments, "--json", input=b"return 1")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1
    json.loads(done.stdout)


def test_a_note_says_that_a_program_is_not_kept(socket_path: Path, tmp_path: Path) -> None:
    """A program that is kept for one engine runs on another, and a note says that it is not kept for that engine."""
    path = tmp_path / "same.js"
    path.write_text("return 'kept once'")
    hash = hashlib.sha256(path.read_bytes()).hexdigest()
    assert _ctl(socket_path, "exec", "--keep", str(path)).stderr == f"note: kept as {hash}\n".encode()
    done = _ctl(socket_path, "exec", "--keep", "--engine", "deno", str(path))
    assert done.stdout == b'"kept once"\n'
    assert b"not stored: the same text is already stored as javascript for quickjs" in done.stderr


@pytest.mark.parametrize(
    ("name", "source", "hint"),
    [
        ("a.txt", "const a: number = 1; return a", True),
        ("a.js", "interface A { b: string }\nreturn 1", False),
        ("a.txt", "const a = ;", False),
    ],
)
def test_undeclared_typescript(socket_path: Path, tmp_path: Path, name: str, source: str, hint: bool) -> None:
    """A syntax error in a text that looks like TypeScript comes with a hint on `--language typescript`."""
    path = tmp_path / name
    path.write_text(source)
    for command in (["exec"], ["exec", "--keep"], ["submit"]):
        done = _ctl(socket_path, *command, str(path))
        assert done.returncode == 1
        assert (b"--language typescript" in done.stderr) is hint


def test_jsx_is_refused(socket_path: Path, tmp_path: Path) -> None:
    """A .tsx file is refused with a message that says what to do."""
    (tmp_path / "a.ts").write_text("const a: number = 1; return a")
    assert _ctl(socket_path, "exec", str(tmp_path / "a.ts")).returncode == 0
    path = tmp_path / "a.tsx"
    path.write_text("const a: number = 1; return a")
    done = _ctl(socket_path, "exec", str(path))
    assert done.returncode == 2
    assert b"JSX is not supported" in done.stderr


@pytest.mark.parametrize("name", ["fails.js", "fails.ts"])
def test_stack_frames_name_the_file(socket_path: Path, tmp_path: Path, name: str) -> None:
    """Each stack frame names the file that the program was read from, in both languages."""
    path = tmp_path / name
    path.write_text(f"function f() {{\n  throw new RangeError('no');\n}}\nf()\n// {name}\n")
    error = _ctl(socket_path, "exec", str(path)).stderr.decode()
    assert f"{path}:2:" in error.splitlines()[0]
    assert f"at f ({path}:2:" in error
    assert f"at <anonymous> ({path}:4:" in error


def test_the_caret_is_below_its_character(socket_path: Path) -> None:
    """The caret is in the right place although a column counts UTF-16 code units and a terminal counts cells."""
    error = _ctl(socket_path, "exec", "-", input="const s = '漢\U0001f600é'; let x = ;".encode()).stderr.decode()
    place, line, caret = error.splitlines()
    assert place.startswith("-:1:27: SyntaxError")
    cells_wider = 2  # two wide characters take one extra cell each
    assert len(caret) == line.index(";", 24) + 1 + cells_wider
    assert caret.strip() == "^"


def test_help_names_the_default_limits() -> None:
    """The default and the maximum of each limit in --help are those of the daemon's default configuration."""
    settings = Config().limits
    for command in (_COMMANDS["run"], _COMMANDS["exec"]):
        helps = {parameter.name: str(getattr(parameter, "help", "")) for parameter in command.params}
        for name in ("cpu_ms", "wall_ms", "memory_mb", "result_kb", "log_kb"):
            numbers = re.findall(r"\d+", helps[name])
            assert numbers == [str(getattr(settings.default, name)), str(getattr(settings.max, name))], helps[name]


def test_json_includes_default_values(socket_path: Path) -> None:
    """The JSON of show and list contains engine and language also if the protocol message leaves them out."""
    hash = _ctl(socket_path, "submit", "-", input=b"return 'in full'").stdout.decode().strip()
    shown = json.loads(_ctl(socket_path, "show", hash, "--json").stdout)
    assert (shown["engine"], shown["language"], shown["names"], shown["runs"]) == ("quickjs", "javascript", [], 0)
    assert "id" not in shown
    [listed] = json.loads(_ctl(socket_path, "list", "--limit", "1", "--json").stdout)
    assert (listed["hash"], listed["engine"]) == (hash, "quickjs")


def test_names_move_back(socket_path: Path) -> None:
    """`name --back` moves a name back to its previous program."""
    first = _ctl(socket_path, "submit", "-", "--name", "moving", input=b"return 'first'").stdout
    _ctl(socket_path, "submit", "-", "--name", "moving", input=b"return 'second'")
    assert _ctl(socket_path, "run", "@moving").stdout == b'"second"\n'
    assert _ctl(socket_path, "name", "moving", "--back").stdout == first
    assert _ctl(socket_path, "run", "@moving").stdout == b'"first"\n'


def test_every_command_and_option_has_help() -> None:
    """Every command and every option has a help text."""
    assert len(_COMMANDS) >= 11
    for command in _COMMANDS.values():
        assert command.help
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, f"{command.name} {parameter.opts}"


def test_every_command_is_in_the_file_of_its_name() -> None:
    """The command `x` is defined in cli/x.py, or in cli/x_.py if `x` is a Python keyword."""
    for name, command in _COMMANDS.items():
        assert command.callback is not None
        module = f"{name}_" if keyword.iskeyword(name) else name.replace("-", "_")
        assert command.callback.__module__ == f"promptlogctl.cli.{module}"


def test_names_move_back_repeatedly(socket_path: Path) -> None:
    """`name --back` goes back through all earlier programs, and fails with an error when none is left."""
    hashes = [_ctl(socket_path, "submit", "-", "--name", "walk", input=f"return {i}".encode()).stdout for i in range(3)]
    assert _ctl(socket_path, "name", "walk", "--back").stdout == hashes[1]
    assert _ctl(socket_path, "name", "@walk", "--back").stdout == hashes[0]
    done = _ctl(socket_path, "name", "walk", "--back")
    assert done.returncode == 5
    assert b"has no earlier program" in done.stderr
    assert _ctl(socket_path, "name", "walk", hashes[2].decode().strip()).stdout == hashes[2]
    assert _ctl(socket_path, "name", "walk", "--back").stdout == hashes[0]
    assert b"did you mean @walk?" in _ctl(socket_path, "run", "walk").stderr


def test_errors_as_json(socket_path: Path, tmp_path: Path) -> None:
    """With --json, an error is one line of JSON on stdout, and the exit code is unchanged."""
    for socket, arguments, code, name in (
        (socket_path, ["run", "@nobody"], 5, "not_found"),
        (socket_path, ["submit", "-"], 1, "bad_request"),
        (tmp_path / "none", ["ping"], 4, "no_daemon"),
        (socket_path, ["name", "j", "\udcff"], 2, "usage"),
    ):
        done = _ctl(socket, *arguments, "--json", input=b"let x = ;")
        assert (done.returncode, done.stderr) == (code, b"")
        assert json.loads(done.stdout)["error"]["code"] == name


def test_stdout_on_a_full_disk(socket_path: Path) -> None:
    """If stdout can't be written, stderr says so in one line and the exit code is 6."""
    with open("/dev/full", "wb") as full:
        environment = {**os.environ, "PROMPTLOG_SOCKET": str(socket_path)}
        command = [sys.executable, "-m", "promptlogctl", "ping"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, env=environment, timeout=60)
    assert done.returncode == 6
    assert done.stderr == b"error: can't write the output: No space left on device\n"


def test_spawn_warns_of_what_is_lost(tmp_path: Path, socket_path: Path) -> None:
    """stderr says that a temporary store is used, or that --state-dir is ignored because a daemon runs."""
    done = _ctl(tmp_path / "none", "submit", str(EXAMPLE), "--spawn")
    assert b"temporary store" in done.stderr
    done = _ctl(socket_path, "ping", "--spawn", "--state-dir", str(tmp_path / "s"))
    assert b"--state-dir is ignored" in done.stderr


def test_spawn_reports_why_the_daemon_did_not_start(tmp_path: Path) -> None:
    """If the private daemon does not start, the error message contains the daemon's reason."""
    (tmp_path / "s").write_text("")
    done = _ctl(tmp_path / "none", "ping", "--spawn", "--state-dir", str(tmp_path / "s"))
    assert done.returncode == 4
    assert done.stderr.startswith(b"error: the private daemon did not start")
    assert b"not a folder" in done.stderr


def test_spawn_without_enough_descriptors(tmp_path: Path) -> None:
    """If there are too few descriptors to start a daemon, the error says so, and no temporary file is left."""
    environment = {**os.environ, "PROMPTLOG_SOCKET": str(tmp_path / "none"), "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "promptlogctl", "ping", "--spawn"]
    assert subprocess.run(command, capture_output=True, env=environment, timeout=60).returncode == 0
    done = subprocess.run(["prlimit", "--nofile=7", *command], capture_output=True, env=environment, timeout=60)
    assert done.returncode == 4
    assert done.stderr.startswith(b"error: the private daemon did not start: ")
    assert done.stderr.endswith(b"Too many open files\n")
    assert not list(tmp_path.iterdir())


def test_programs_are_completed(socket_path: Path) -> None:
    """The shell completes names after `@`, and hashes after their first digits."""
    hash = _ctl(socket_path, "submit", "-", "--name", "completed", input=b"return 'c'").stdout.decode().strip()
    assert _ctl(socket_path, "submit", "-", "--name", "another", input=b"return 'd'").returncode == 0
    for typed, found in (("@compl", "@completed"), (hash[:6], hash)):
        environment = {
            **os.environ,
            "PROMPTLOG_SOCKET": str(socket_path),
            "_PROMPTLOGCTL_COMPLETE": "bash_complete",
            "_PROMPTLOGCTL_LINE": f"promptlogctl run {typed}",
            "_PROMPTLOGCTL_WORD": typed,
        }
        script = "from promptlogctl.cli import cli; cli(prog_name='promptlogctl')"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, env=environment, timeout=60)
        assert found in done.stdout.decode()
        assert "another" not in done.stdout.decode()


def test_language_by_file_name_or_option(socket_path: Path, tmp_path: Path) -> None:
    """The file name selects the language whatever is kept already, and --language selects it for standard input."""
    script, typed = tmp_path / "same.js", tmp_path / "same.ts"
    for file in (script, typed):
        file.write_text("if (prompt) { return typeof setInterval } return 0 // what a file is written in")
    outputs = [_ctl(socket_path, "exec", str(file), "--prompt", "x") for file in (script, typed, script)]
    assert [done.stdout for done in outputs] == [b'"undefined"\n', b'"function"\n', b'"undefined"\n'], outputs
    asked = ("exec", "-", "--language", "typescript")
    done = _ctl(socket_path, *asked, input=b"const x: number = 1; if (x) return 2; return 3")
    assert (done.returncode, done.stdout) == (0, b"2\n"), done.stderr
