"""Completion in real shells, with the start-up lines that docs/cli.md gives."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ctl.command import ctl
from tests.ctl.terminal import Terminal, terminal
from tests.daemon.processes import until

_ROOT = Path(__file__).parents[2]
_ROW = re.compile(r"^\| (bash|zsh|fish) \| `[^`]*` \| `([^`]*)` \|$", re.MULTILINE)
_INSTALL = {shell: line.replace("\\|", "|") for shell, line in _ROW.findall((_ROOT / "docs/cli.md").read_text())}
"""The line of docs/cli.md for each shell's start-up file."""

# Ctrl-G writes the edited line to a file, because each shell redraws its line in its own way.
_SHELLS = {
    "bash": (
        ["--rcfile", "HOME/.bashrc", "-i"],
        ".bashrc",
        "PS1='READY>'; bind 'set bell-style none'\n"
        'bind -x \'"\\C-g": printf %s "$READLINE_LINE" > ~/new; mv ~/new ~/line\'',
    ),
    "zsh": (
        ["-i"],
        ".zshrc",
        "PS1='READY>'; write-line() { print -rn -- \"$BUFFER\" > ~/new; mv ~/new ~/line }\n"
        "zle -N write-line; bindkey '^G' write-line",
    ),
    "fish": (
        ["-i"],
        ".config/fish/config.fish",
        "function fish_prompt; echo 'READY>'; end; bind \\cg 'commandline > ~/new; mv ~/new ~/line'",
    ),
}

_CASES = {
    "run @shell-comp": "run @shell-completed ",
    "exec fi": "exec file-to-complete.js ",
    "submit ./fi": "submit ./file-to-complete.js ",
    "exec with\\ a": "exec with\\ a\\ blank.js ",
    'exec "with a': 'exec "with a blank.js" ',
    "exec --prompt-file=fi": "exec --prompt-file=file-to-complete.js ",
    "exec --env @fi": "exec --env @file-to-complete.js ",
    "exec --env=@fi": "exec --env=@file-to-complete.js ",
    "exec --engine=qu": "exec --engine=quickjs ",
    "comple": "completion ",
    "run --resul": "run --result-kb ",
    "--socket SOCKET run @shell-comp": "--socket SOCKET run @shell-completed ",
}


def _start(shell: str, home: Path) -> tuple[list[str], dict[str, str]]:
    """Return command and environment of a shell with this home folder and promptlogctl in its PATH."""
    program = shutil.which(shell)
    assert program, f"{shell} is not installed (Debian: apt-get install {shell})"
    options, file, more = _SHELLS[shell]
    (home / "bin").mkdir()
    (home / "bin/promptlogctl").write_text(
        f'#!/bin/sh\nexec {shlex.join([sys.executable, "-m", "promptlogctl"])} "$@"\n'
    )
    (home / "bin/promptlogctl").chmod(0o755)
    (home / ".local/share/fish/generated_completions").mkdir(parents=True)  # or fish reads all man pages to complete
    (home / file).parent.mkdir(parents=True, exist_ok=True)
    (home / file).write_text(f"{_INSTALL[shell]}\n{more}\n")
    variables = {"PATH": f"{home / 'bin'}:{os.environ['PATH']}", "HOME": str(home), "ZDOTDIR": str(home)}
    variables |= {"PYTHONPATH": str(_ROOT), "XDG_CONFIG_HOME": "", "XDG_DATA_HOME": ""}
    return [program, *(option.replace("HOME", str(home)) for option in options)], variables


@pytest.fixture(
    params=[pytest.param(s, marks=[] if s == "bash" else [pytest.mark.tools]) for s in _SHELLS], scope="module"
)
def shell(
    request: pytest.FixtureRequest, socket_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Terminal, Path]]:
    """A shell at its prompt, in a home folder with two files; and the path of that folder."""
    assert ctl(socket_path, "submit", "-", "--name", "shell-completed", input=b"return 'sc'").returncode == 0
    home = tmp_path_factory.mktemp("home")
    command, variables = _start(request.param, home)
    for name in ("file-to-complete.js", "with a blank.js"):
        (home / name).write_text("return 1")
    with terminal(socket_path, *command, columns=250, variables=variables) as opened:
        opened.read("READY>")
        opened.type("cd\n")
        opened.seen = ""
        opened.read("READY>")
        yield opened, home
        opened.type("\x15exit\n")
        until(lambda: opened.process.poll() is not None)


@pytest.mark.parametrize("typed", _CASES)
def test_shells_complete(socket_path: Path, shell: tuple[Terminal, Path], typed: str) -> None:
    """Tab completes names after `@`, files, commands, options and option values in each real shell."""
    opened, home = shell
    opened.type("\x15promptlogctl " + typed.replace("SOCKET", str(socket_path)) + "\t\x07")
    until((home / "line").exists, 30)
    line = (home / "line").read_text().removesuffix("\n")
    (home / "line").unlink()
    assert line == "promptlogctl " + _CASES[typed].replace("SOCKET", str(socket_path))
