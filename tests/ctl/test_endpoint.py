"""Clients check which user runs the daemon, unless the caller named the socket."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from promptlogctl.client import AsyncClient, Client, NoDaemon, UntrustedDaemon

STRANGER = 4711

_LISTEN = """
import os, socket, sys
sock = socket.socket(socket.AF_UNIX)
sock.bind(sys.argv[1])
os.chmod(sys.argv[1], 0o666)
os.setuid(int(sys.argv[2]))
sock.listen(8)  # from here on the kernel names this uid to who connects
print("ready", flush=True)
while True:
    client, _ = sock.accept()
    print(client.recv(100), flush=True)
    client.close()
"""


@pytest.fixture
def default_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The default socket of an ordinary user, in a temporary folder."""
    monkeypatch.setattr(os, "geteuid", lambda: 1)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.delenv("PROMPTLOG_SOCKET", raising=False)
    (tmp_path / "promptlog").mkdir()
    return tmp_path / "promptlog/promptlog.sock"


@contextmanager
def _answering(path: Path, uid: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process of this uid that listens on the socket and sends nothing."""
    process = subprocess.Popen([sys.executable, "-c", _LISTEN, path, str(uid)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"ready\n", "this test starts processes of other users: run it as root"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_another_users_daemon_is_refused(default_path: Path) -> None:
    """Clients send nothing to a process of another user on the default path, and the error names its uid."""

    async def ask() -> None:
        async with AsyncClient() as client:
            await client.ping()

    with _answering(default_path, STRANGER) as stranger:
        with Client() as client, pytest.raises(UntrustedDaemon, match=f"runs as uid {STRANGER}.*--socket"):
            client.ping()
        with pytest.raises(UntrustedDaemon):
            trio.run(ask)
        stranger.kill()
        assert stranger.stdout is not None
        assert set(stranger.stdout.read().splitlines()) <= {b"b''"}


@pytest.mark.parametrize("uid", [0, 1])
def test_daemons_of_root_and_of_the_user_are_trusted(default_path: Path, uid: int) -> None:
    """A daemon that runs as root or as the user receives the request."""
    with _answering(default_path, uid) as daemon, Client() as client:
        client.start(None, source="return 1")
        assert daemon.stdout is not None
        assert daemon.stdout.readline() != b"b''\n"


@pytest.mark.parametrize("how", ["argument", "environment"])
def test_a_named_path_is_trusted(default_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """If the caller names the socket by argument or $PROMPTLOG_SOCKET, the owner of the daemon is not checked."""
    if how == "environment":
        monkeypatch.setenv("PROMPTLOG_SOCKET", str(default_path))
    path = default_path if how == "argument" else None
    with _answering(default_path, STRANGER) as daemon, Client(path) as client:
        client.start(None, source="return 1")
        assert daemon.stdout is not None
        assert daemon.stdout.readline() != b"b''\n"


def test_relative_folders_in_the_environment_are_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative $XDG_RUNTIME_DIR does not make the client look for a socket in the current folder."""
    monkeypatch.setattr(os, "geteuid", lambda: 1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", "here")
    monkeypatch.setenv("XDG_STATE_HOME", ".")
    monkeypatch.delenv("PROMPTLOG_SOCKET", raising=False)
    (tmp_path / "here/promptlog").mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind("here/promptlog/promptlog.sock")
        sock.listen()
        with Client() as client:
            assert client.socket_path == tmp_path / "home/.local/state/promptlog/promptlog.sock"
            with pytest.raises(NoDaemon):
                client.ping()
