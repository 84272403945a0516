"""Command lines with one fault: each fails, and succeeds without the fault."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from promptlogctl.client import Client
from tests.ctl.command import ctl as _ctl

EXAMPLE = Path(__file__).parents[2] / "examples/reverse.js"
_KEPT = "@usage"
_FILE = "FILE"
"""Placeholder for the path of an existing file."""


@pytest.mark.parametrize(
    ("right", "wrong", "code", "says"),
    [
        (["run", _KEPT], ["run", "0" * 64], 5, "no program"),
        (["run", _KEPT], ["run", "@nobody"], 5, "no program"),
        (["run", _KEPT], ["run", "00"], 2, "8 digits"),
        (["run", _KEPT], ["run"], 2, "Missing argument"),
        (["exec", _FILE], ["exec", "/nowhere.js"], 2, "can't read"),
        (["exec", "-", "--prompt", "x"], ["exec", "-", "--prompt", "x", "--prompt-file", _FILE], 2, "not both"),
        (["exec", _FILE, "--prompt-file", "-"], ["exec", "-", "--prompt-file", "-"], 2, "both be standard input"),
        (["exec", "-", "--env", '{"a": [1]}'], ["exec", "-", "--env", "[1]"], 2, "JSON object"),
        (["exec", "-", "--cpu-ms", "1000"], ["exec", "-", "--cpu-ms", "0"], 2, "cpu-ms"),
        (["exec", "-", "--cpu-ms", "10000"], ["exec", "-", "--cpu-ms", "10001"], 2, "10000"),
        (["exec", "-", "--engine", "deno"], ["exec", "-", "--engine", "v8"], 2, "'v8' is not one of"),
        (["show", _KEPT], ["show", "0" * 64], 5, "no program"),
        (["remove", "--force", _KEPT], ["remove", "--force", "0" * 64], 5, "no program"),
        (["name", "x", _KEPT], ["name", "x"], 2, "--back"),
        (["submit", "-", "--name", "a-b"], ["submit", "-", "--name", "a b"], 2, "start with a letter"),
        (["exec", "-", "--memory-mb", "512"], ["exec", "-", "--memory-mb", "513"], 2, "512 MiB"),
        (["exec", "-", "--memory-mb", "64"], ["exec", "-", "--memory-mb", "99999999999999"], 2, "memory-mb"),
        (["exec", "-", "--cpu-ms", "1000"], ["exec", "-", "--cpu-ms", "x"], 2, "'x' is not a valid integer"),
        (["list", "--limit", "1"], ["list", "--limit", "x"], 2, "'x' is not a valid integer"),
        (["list"], ["list", "--socket", ""], 2, "Invalid value for '--socket': the path is empty"),
        (["list", "--spawn", "--state-dir", "STATE"], ["list", "--spawn", "--state-dir", ""], 2, "the path is empty"),
        (["list", "--spawn", "--state-dir", "STATE"], ["list", "--state-dir", "STATE"], 2, "--spawn"),
        (["exec", _FILE], ["exec", ""], 2, "the path of the program is empty"),
        (["export", _FILE], ["export", "/tmp"], 2, "can't write /tmp: it is a folder"),
        (["completion", "bash"], ["completion"], 2, "Choose from: bash, zsh, fish"),
        (["name", "usage", "--back"], ["name", "never-seen", "--back"], 5, "no program '@never-seen'"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else None,
)
def test_usage_and_not_found(
    client: Client, tmp_path: Path, right: list[str], wrong: list[str], code: int, says: str
) -> None:
    """A correct command exits with 0; with one fault it exits with the documented code and one line that names it."""
    (tmp_path / "file.js").write_text("return 1")
    stand_for = {_FILE: str(tmp_path / "file.js"), "STATE": str(tmp_path / "state")}
    for source in ("return 0", "return 1"):  # two programs, so that the name can be moved back
        client.submit(source, name="usage")
    done = _ctl(client.socket_path, *(stand_for.get(word, word) for word in right), input=b"return 1")
    assert done.returncode == 0, done.stderr
    done = _ctl(client.socket_path, *(stand_for.get(word, word) for word in wrong), input=b"return 1")
    assert done.returncode == code, done.stderr
    assert says in done.stderr.decode()


def test_usage_errors_as_json(socket_path: Path) -> None:
    """With --json, a usage error is one line of JSON on stdout."""
    assert _ctl(socket_path, "submit", "-", "--name", "j", input=b"return 1").returncode == 0
    for right, wrong in (
        (["run", "@j"], ["run"]),
        (["run", "@j", "--cpu-ms", "50"], ["run", "@j", "--cpu-ms", "x"]),
        (["ping"], ["nothing"]),
        (["name", "j", "@j"], ["name", "j"]),
        (["exec", str(EXAMPLE)], ["exec", "/nowhere.js"]),
    ):
        assert _ctl(socket_path, *right, "--json").returncode == 0
        done = _ctl(socket_path, *wrong, "--json")
        assert (done.returncode, done.stderr) == (2, b""), wrong
        assert json.loads(done.stdout)["error"]["code"] == "usage"
        told = _ctl(socket_path, *wrong)
        assert (told.returncode, told.stdout, len(told.stderr.splitlines())) == (2, b"", 1)
        assert told.stderr.startswith(b"error: ")
        assert told.stderr.endswith(f"promptlogctl {wrong[0]} --help\n".encode()) is (wrong[0] != "nothing")


@pytest.mark.parametrize("options", [["--bogus"], ["--socket", ""]], ids=str)
def test_errors_before_the_command_as_json(options: list[str]) -> None:
    """With --json, an error in an option before the command is one line of JSON on stdout as well."""
    done = _ctl("/nowhere", *options, "ping", "--json")
    assert (done.returncode, done.stderr) == (2, b"")
    assert json.loads(done.stdout)["error"]["code"] == "usage"
    done = _ctl("/nowhere", *options, "ping")
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, b"", 1)
