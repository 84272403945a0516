"""Clients on the Node that Playwright installs. `make test-page` runs these tests; `make test` does not."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from playwright._impl._driver import compute_driver_executable

from promptlogctl.client import Client
from tests.http.fetch import TOLD, script
from tests.http.servers import http_server
from tests.wire.test_vectors import CLIENT_PRINTS, ROOT


def _ended(*arguments: str, input: str = "") -> subprocess.CompletedProcess[str]:
    """Run Node, and return its exit code and output."""
    node, _ = compute_driver_executable()
    return subprocess.run([node, *arguments], input=input, capture_output=True, text=True, timeout=60)


def _node(*arguments: str, input: str = "") -> str:
    """Run Node, check that it succeeds, and return its standard output."""
    done = _ended(*arguments, input=input)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_fetch(socket_path: Path) -> None:
    """The script of the fetch tests gives the same results with Node's `fetch` as with Deno's."""
    with http_server(daemon=socket_path) as url:
        assert json.loads(_node("--input-type=module", "-", input=script(url))) == TOLD


def test_the_javascript_client(client: Client, socket_path: Path) -> None:
    """The JavaScript example client prints on Node what it prints on Deno."""
    hash = client.submit("return [...prompt].reverse().join('')").hash
    assert _node(str(ROOT / "examples/client.mjs"), str(socket_path)) == CLIENT_PRINTS.replace("HASH", hash)


def test_the_javascript_client_without_a_daemon(tmp_path: Path) -> None:
    """Without a socket path the example prints its usage, and with a wrong path one error line."""
    example = str(ROOT / "examples/client.mjs")
    told = _ended(example)
    assert (told.returncode, told.stdout) == (2, "")
    assert told.stderr.startswith("usage: client.mjs SOCKET")
    told = _ended(example, str(tmp_path / "none"))
    assert (told.returncode, told.stdout) == (1, "")
    assert told.stderr.startswith("error: ")
    assert len(told.stderr.splitlines()) == 1
