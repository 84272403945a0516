"""docs/vectors.json, the test vectors for clients in other languages, matches this daemon and this client."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any, get_args

import pytest

from promptlogctl.client import Client
from promptlogd.wire import ClientSession, ServerSession
from promptlogd.wire.messages import Reply, Request
from promptlogd.wire.vectors import REPLIES, REQUESTS, parts
from tests.daemon.processes import talk

ROOT = Path(__file__).parents[2]
VECTORS = json.loads((ROOT / "docs/vectors.json").read_text("utf-8"))

CLIENT_PRINTS = """\
HASH dlrow olleh
[["one","two"],["a","cb","\U0001f600d"]]
not_found
TypeError 1
cancelled
"""


def test_the_file_is_current() -> None:
    """The file is what the messages generate."""
    assert (ROOT / "docs/vectors.json").read_text("utf-8") == "".join(parts()), "run: make docs"


def _types(kind: str) -> set[str]:
    return {vector["message"]["type"] for vector in VECTORS[kind]}


def _bytes(vector: dict[str, Any], encoding: str) -> bytes:
    return bytes.fromhex(vector["msgpack"]) if encoding == "msgpack" else str(vector["json"]).encode()


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
def test_the_daemon_reads_the_requests(encoding: str) -> None:
    """The bytes of each request are decoded to the request, and the file has all types of requests."""
    assert _types("requests") == {kind.__struct_config__.tag for kind in get_args(Request)}
    for vector, (about, request) in zip(VECTORS["requests"], REQUESTS, strict=True):
        assert list(ServerSession().events(_bytes(vector, encoding))) == [request], about


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
def test_the_client_reads_the_replies(encoding: Any) -> None:
    """The bytes of each reply are decoded to the reply, and the file has all types of replies."""
    assert _types("replies") == {kind.__struct_config__.tag for kind in get_args(Reply)}
    for vector, (about, reply) in zip(VECTORS["replies"], REPLIES, strict=True):
        assert ClientSession(encoding=encoding).receive(_bytes(vector, encoding)) == [reply], about


def test_invalid_frames_get_errors(socket_path: Path) -> None:
    """Each invalid frame gets an error; the connection continues or ends, as the file says."""
    for vector in VECTORS["refused"]:
        encoding = "json" if "json" in vector else "msgpack"
        with talk(socket_path) as sock:
            sock.settimeout(20)
            sock.sendall(_bytes(vector, encoding))
            session = ClientSession(encoding=encoding)  # type: ignore[arg-type]
            replies: list[Any] = []
            while not replies:
                replies = session.receive(sock.recv(65536))
            assert [reply.__struct_config__.tag for reply in replies] == ["error"], vector
            ping = next(one for one in VECTORS["requests"] if one["message"] == {"type": "ping", "id": 0})
            if vector["closes"]:
                assert sock.recv(65536) == b"", vector
            else:
                sock.sendall(_bytes(ping, encoding))
                assert session.receive(sock.recv(65536))[0].__struct_config__.tag == "pong", vector


def test_the_client_in_javascript(client: Client, socket_path: Path) -> None:
    """The JavaScript example, here on Deno, submits a program, runs it, gets console lines, and reports errors."""
    import deno

    done = subprocess.run(
        [deno.find_deno_bin(), "run", "--no-config", "--allow-all", ROOT / "examples/client.mjs", socket_path],
        capture_output=True,
        text=True,
        timeout=60,
        env={"NO_COLOR": "1", "HOME": "/nonexistent", "DENO_DIR": "/nonexistent"},
    )
    assert done.returncode == 0, done.stderr
    hash = client.submit("return [...prompt].reverse().join('')").hash
    assert done.stdout == CLIENT_PRINTS.replace("HASH", hash), done.stdout
