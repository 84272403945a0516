"""Only a front may name a `tenant`."""

from __future__ import annotations

import json
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from shutil import rmtree
from typing import Any

import pytest

from promptlogctl.client import Client
from tests.daemon.processes import a_daemon, ask, talk

_NOBODY = 65534


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that other users can access."""
    assert os.geteuid() == 0, "this test connects as another user: run it as root"
    folder = Path(tempfile.mkdtemp(prefix="promptlog-", dir="/run"))
    folder.chmod(0o755)
    yield folder
    rmtree(folder)


def _as_nobody(path: Path, request: dict[str, Any]) -> dict[str, Any]:
    """Send a request as the user nobody, and return the reply."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgid(_NOBODY)
            os.setuid(_NOBODY)
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(str(path))
                sock.sendall(json.dumps(request).encode() + b"\n")
                os.write(writing, sock.makefile("rb").readline())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as file:
        reply: dict[str, Any] = json.loads(file.read())
    os.waitpid(pid, 0)
    return reply


@pytest.mark.parametrize("fronts", [[], [_NOBODY], ["nobody"]])
def test_only_fronts_may_name_a_tenant(folder: Path, fronts: list[int | str]) -> None:
    """Another user's request with a tenant is `forbidden` unless `server.fronts` lists the user."""
    requests: list[tuple[dict[str, Any], str]] = [
        ({"type": "ping", "id": 1}, "pong"),
        ({"type": "run", "id": 1, "source": "return 1"}, "finished"),
    ]
    with a_daemon(folder, config=f"[server]\nfronts = {fronts}\n") as daemon:
        os.chown(daemon.socket, _NOBODY, -1)
        for request, served in requests:
            assert _as_nobody(daemon.socket, request)["type"] == served
            reply = _as_nobody(daemon.socket, {**request, "tenant": "acme"})
            assert reply["type"] == (served if fronts else "error")
            if not fronts:
                assert reply["code"] == "forbidden"
                assert "server.fronts" in reply["message"]


def test_the_daemons_own_user_may_name_tenants(tmp_path: Path) -> None:
    """A front that runs as the daemon's user need not be listed. The length of a tenant's name is bounded."""
    with a_daemon(tmp_path) as daemon, talk(daemon.socket) as sock:
        assert ask(sock, {"type": "ping", "id": 1, "tenant": "acme"})[0]["type"] == "pong"
        for wrong, field in (("", "`tenant`"), ("x" * 129, "`$.tenant`"), (7, "`$.tenant`")):
            (error,) = ask(sock, {"type": "ping", "id": 2, "tenant": wrong})
            assert (error["code"], field in error["message"]) == ("bad_request", True), error
        with Client(daemon.socket) as client:
            assert client.stats().errors == {"bad_request": 3}
