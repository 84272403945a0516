"""The daemon's command line: paths, closed streams, and output that can't be written."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from promptlogctl.client import Client
from tests.daemon.ordinary_user import ordinary_user
from tests.daemon.processes import until


def test_relative_paths_work_for_an_ordinary_user(tmp_path: Path) -> None:
    """The daemon and the jails resolve relative paths of the socket and the state folder against the current folder."""
    become = ordinary_user(tmp_path)
    reading, writing = os.pipe()
    daemon = subprocess.Popen(
        [*become, sys.executable, "-m", "promptlogd", "--socket", "s", "--state-dir", "st", "--ready-fd", str(writing)],
        pass_fds=(writing,),
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        env={"HOME": str(tmp_path), "PATH": os.environ["PATH"]},
    )
    os.close(writing)
    try:
        with open(reading, "rb") as ready:
            started = ready.read() == b"ready\n"
        if started:
            with Client(tmp_path / "s") as client:
                assert client.run_source("return 1").value == 1
            assert (tmp_path / "st").is_dir()
    finally:
        daemon.terminate()
        _, said = daemon.communicate(timeout=20)
    assert started, said.decode()


@pytest.mark.parametrize("option", ["--socket", "--state-dir", "--config"])
def test_an_empty_path_is_a_usage_error(tmp_path: Path, option: str) -> None:
    """The daemon rejects an empty path, for example from an unset variable, and does not use the current folder."""
    for path, code, says in (("missing/../.", 1, b"ERROR promptlogd: "), ("", 2, b"the path is empty")):
        command = [sys.executable, "-m", "promptlogd", "--config", "missing/c", option, path]
        done = subprocess.run(command, capture_output=True, cwd=tmp_path, timeout=60)
        assert (done.returncode, says in done.stderr) == (code, True), done.stderr


@pytest.mark.parametrize("option", ["--version", "--help", "--check-config"])
@pytest.mark.parametrize("output", [">&-", ">/dev/full"])
def test_an_output_that_can_not_be_written(option: str, output: str) -> None:
    """A closed stdout and a full disk end with exit code 1 and one line on stderr."""
    command = ["sh", "-c", f'exec "$@" {output}', "sh", sys.executable, "-m", "promptlogd", option]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 1
    assert re.fullmatch("Error: can't write the output: [^\n]+\n", done.stderr)


def test_closed_standard_streams(tmp_path: Path) -> None:
    """A daemon that is started with closed standard streams opens /dev/null in their place, and serves."""
    daemon = [sys.executable, "-m", "promptlogd", "--socket", str(tmp_path / "s"), "--state-dir", str(tmp_path / "d")]
    process = subprocess.Popen(["bash", "-c", f"exec {shlex.join(daemon)} <&- >&- 2>&-"])
    try:
        until((tmp_path / "s").exists, 10)
        with Client(tmp_path / "s") as client:
            assert client.run_source("return 1").value == 1
        assert {os.readlink(f"/proc/{process.pid}/fd/{descriptor}") for descriptor in range(3)} == {os.devnull}
    finally:
        process.terminate()
        assert process.wait(20) == 0
