"""Paths that can't be a daemon's socket: each client names the fault and the remedy."""

from __future__ import annotations

import errno
import os
import re
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import trio

from promptlogctl.client import AsyncClient, Client, NoDaemon, endpoint
from promptlogctl.client.endpoint import Endpoint
from promptlogd.wire.paths import Paths
from tests.ctl.command import ctl

_LONG = "x" * 120
_START = "start one with: promptlogd --socket"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nothing", f"no promptlogd answers on .*/nothing .*; {_START}"),
        ("stale", f"no promptlogd answers on .*/stale .Connection refused.; {_START}"),
        ("folder", "can't connect to .*/folder: it is a folder, not a socket; name .* for example .*/folder/promptlog"),
        ("file", "can't connect to .*/file: it is a file, not a socket; name the daemon's socket with --socket"),
        ("file/s", "a component of the path is not a folder; name the daemon's socket with --socket"),
        ("datagrams", "it is a socket of another type; name the daemon's socket"),
        (
            _LONG,
            r"the path has \d+ bytes, the maximum for a socket is 107; name the daemon's socket .* with a shorter path",
        ),
    ],
)
def test_unusable_paths(tmp_path: Path, name: str, says: str) -> None:
    """Both clients and the command line distinguish an unusable path from a daemon that does not run."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / "stale"))

    async def ask() -> None:
        async with AsyncClient(tmp_path / name) as client:
            await client.ping()

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams:
        datagrams.bind(str(tmp_path / "datagrams"))
        with Client(tmp_path / name) as client, pytest.raises(NoDaemon, match=says) as refused:
            client.ping()
        with pytest.raises(NoDaemon, match=re.escape(str(refused.value))):
            trio.run(ask)
        done = ctl(tmp_path / name, "ping")
    assert (done.returncode, done.stderr.decode()) == (4, f"error: {refused.value}\n")
    assert (_START in str(refused.value)) is (name in ("nothing", "stale"))


_AS_NOBODY = """
import os, sys
from promptlogctl.cli import cli  # before this process may no longer read it
if os.geteuid() == 0:
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
cli(sys.argv[1:], prog_name="promptlogctl")
"""


@pytest.mark.parametrize("closed", ["socket", "folder"])
def test_permission_denied_names_owner_and_mode(closed: str) -> None:
    """If a socket or folder denies access, the error names it with its owner and mode, and the exit code is 4."""
    with tempfile.TemporaryDirectory(prefix="promptlog-") as name, socket.socket(socket.AF_UNIX) as sock:
        os.chmod(name, 0o755)
        folder = Path(name, "folder")
        folder.mkdir()
        sock.bind(str(folder / "s"))
        sock.listen()
        (folder / "s").chmod(0 if closed == "socket" else 0o666)
        folder.chmod(0 if closed == "folder" else 0o755)
        command = [sys.executable, "-c", _AS_NOBODY, "ping", "--socket", str(folder / "s")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        folder.chmod(0o755)
    assert done.returncode == 4, done.stderr
    what = "the socket" if closed == "socket" else f"the folder {folder}"
    owner = f"{what} belongs to uid {os.geteuid()}, group {os.getegid()}, mode 0000"
    assert owner in done.stderr
    setting = " (server.socket_group in the daemon's configuration)" if closed == "socket" else ""
    assert f"; run the command as uid {os.geteuid()}, or ask that user for access{setting}\n" in done.stderr


@pytest.mark.parametrize("closed", ["socket", "folder"])
def test_permission_denied_names_the_command_for_the_group(closed: str) -> None:
    """If the group of a socket or folder has access, the error names the command that adds this user to the group."""
    assert os.geteuid() == 0, "another user's socket: run this test as root"
    with tempfile.TemporaryDirectory(prefix="promptlog-") as name, socket.socket(socket.AF_UNIX) as sock:
        os.chmod(name, 0o755)
        folder = Path(name, "folder")
        folder.mkdir()
        sock.bind(str(folder / "s"))
        os.chown(path := folder / "s" if closed == "socket" else folder, 0, 8)
        path.chmod(0o660 if closed == "socket" else 0o750)
        command = [sys.executable, "-c", _AS_NOBODY, "ping", "--socket", str(folder / "s")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 4, done.stderr
    assert done.stderr.endswith(": usermod --append --groups mail nobody, then log in again\n")


def test_a_closed_default_suggests_the_system_daemon(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """If a user may not use its own default socket and the system has a daemon, the error names that socket."""
    shared, own = tmp_path / "shared", tmp_path / "own"
    shared.touch()
    monkeypatch.setattr(
        endpoint, "default_paths", lambda euid, _: Paths(socket=own if euid else shared, state_dir=tmp_path)
    )
    refused = Endpoint(path=own, explicit=False).no_daemon(PermissionError(errno.EACCES, "Permission denied"))
    assert str(refused).endswith(f"; or use the system's daemon: --socket {shared}")
    refused = Endpoint(path=own, explicit=True).no_daemon(PermissionError(errno.EACCES, "Permission denied"))
    assert "system's daemon" not in str(refused)


def test_an_empty_path_is_a_value_error() -> None:
    """An empty path is refused and does not mean the current folder."""
    with pytest.raises(ValueError, match="the path of the socket is empty"):
        Client("")


def test_the_error_suggests_the_system_daemon(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """If a user's default socket has no daemon and the system has one, the error names the system's socket."""
    shared = tmp_path / "shared"
    paths = {0: shared, 1000: tmp_path / "own"}
    monkeypatch.setattr(endpoint, "default_paths", lambda euid, _: Paths(socket=paths[euid], state_dir=tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.delenv("PROMPTLOG_SOCKET", raising=False)
    hint = f"; or use the system's daemon: --socket {shared}"
    for there in (False, True):
        if there:
            shared.touch()
        with Client() as client, pytest.raises(NoDaemon) as refused:
            client.ping()
        assert str(refused.value).endswith(hint) is there
        with Client(tmp_path / "own") as client, pytest.raises(NoDaemon) as refused:
            client.ping()
        assert hint not in str(refused.value)
