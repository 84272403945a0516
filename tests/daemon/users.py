"""Requests of other users: a test that is run by root becomes another user in a child, and connects as this one."""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from tests.daemon.processes import Daemon, a_daemon


class User(msgspec.Struct, frozen=True):
    """A user: uid, gid and supplementary groups. They need not exist in /etc/passwd."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()

    def ask(self, path: Path, *requests: dict[str, Any], at_once: bool = False) -> list[dict[str, Any]]:
        """Send requests over one connection, and return the replies.

        Each is sent after the reply to the one before, or all `at_once`: the replies are then in the requests' order.
        """
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.setgroups(self.groups)
                os.setresgid(self.gid, self.gid, self.gid)
                os.setresuid(self.uid, self.uid, self.uid)
                with open(writing, "wb") as file:
                    file.write(json.dumps(_exchange(path, requests, at_once=at_once)).encode())
            finally:
                os._exit(0)
        os.close(writing)
        with open(reading, "rb") as file:
            replies: list[dict[str, Any]] = json.loads(file.read() or b"[]")
        os.waitpid(pid, 0)
        assert len(replies) == len(requests), "the child failed; its traceback is above"
        return replies

    def one(self, path: Path, kind: str, **fields: Any) -> dict[str, Any]:
        """Send one request, and return its reply."""
        return self.ask(path, {"type": kind, **fields})[0]


def _exchange(path: Path, requests: Sequence[dict[str, Any]], *, at_once: bool) -> list[dict[str, Any]]:
    replies: dict[int, dict[str, Any]] = {}
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect(str(path))
        stream = sock.makefile("rwb")
        numbered = [{"id": number, **request} for number, request in enumerate(requests)]
        for part in [numbered] if at_once else [[request] for request in numbered]:
            stream.write(b"".join(json.dumps(request).encode() + b"\n" for request in part))
            stream.flush()
            for _ in part:
                reply = json.loads(stream.readline())
                replies[reply["id"]] = reply
    return [replies[request["id"]] for request in numbered]


@contextmanager
def open_daemon(config: str = "") -> Iterator[Daemon]:
    """Start a daemon that every user may connect to, as root."""
    assert os.geteuid() == 0, "this test connects as other users: run it as root"
    folder = Path(tempfile.mkdtemp(prefix="promptlog-", dir="/run"))
    try:
        folder.chmod(0o755)
        with a_daemon(folder, config=config or "[pool]\ncells = 2\n") as daemon:
            daemon.socket.chmod(0o666)
            yield daemon
    finally:
        shutil.rmtree(folder)
