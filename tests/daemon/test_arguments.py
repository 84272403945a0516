"""The paths on the daemon's command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from promptlogctl.client import Client
from tests.daemon.ordinary_user import ordinary_user


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
