"""The version of the engine in replies and commands, and the requests that a disabled engine refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

import pytest

from promptlogctl.client import Client, RequestRefused
from sandbox.engines.installed import installed_versions
from tests.ctl.command import ctl
from tests.daemon.processes import Daemon, a_daemon, children

SOURCE = "return typeof Intl"


def test_replies_and_commands_name_the_same_versions(client: Client, socket_path: Path) -> None:
    """`pong`, `finished`, --version, ping and doctor report the same versions."""
    versions = installed_versions()
    assert list(versions) == ["quickjs", "deno"]
    assert client.ping().engines == versions
    for engine, version in versions.items():
        assert client.run_source(SOURCE, engine=engine).engine_version == version
        assert client.run(client.submit(f"{SOURCE} // {engine}", engine=engine).hash).engine_version == version
    unparsed = client.run_source("let x = ;" + " " * 70_000, engine="deno")  # large enough for a separate check
    assert (unparsed.ok, unparsed.engine_version) == (False, versions["deno"])
    lines = [f"{engine}: {version}" for engine, version in versions.items()]
    assert ctl(socket_path, "--version").stdout.decode().splitlines()[1:] == lines
    assert ctl(socket_path, "ping").stdout.decode().splitlines()[1:] == lines
    doctor = ctl(socket_path, "doctor").stdout.decode()
    assert f"engine quickjs: ok: {versions['quickjs']} ran a program" in doctor
    assert f"answers on {socket_path}, with {', '.join(versions.values())}" in doctor


def test_the_bill_of_materials_has_the_reported_version(client: Client) -> None:
    """The SBOM of the installed package has the version and build that `pong` reports."""
    [path] = [path for path in distribution("promptlog").files or [] if path.name == "quickjs-cell.cdx.json"]
    bill = json.loads(path.read_text())
    engine = bill["components"][0]
    build = bill["metadata"]["component"]["version"]
    assert client.ping().engines["quickjs"] == f"{engine['name']} {engine['version']}+{build[:12]}"


@pytest.fixture(scope="module")
def without_deno(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon whose configuration disables Deno."""
    with a_daemon(tmp_path_factory.mktemp("d"), config='[engines]\ndisabled = ["deno"]\n') as daemon:
        yield daemon


def test_a_disabled_engine_refuses_requests(without_deno: Daemon) -> None:
    """submit and run are refused with advice, whether the request names the engine or the language implies it."""
    with Client(without_deno.socket) as client:
        kept = client.submit(SOURCE).hash
        assert client.run(kept).value == "undefined"
        for ask in (
            lambda: client.submit(f"{SOURCE} ", engine="deno"),
            lambda: client.submit("const n: number = 1; return n", language="typescript"),
            lambda: client.submit("return 1" + " " * 70_000, engine="deno"),  # a large program takes another path
            lambda: client.run_source(SOURCE, engine="deno"),
            lambda: client.run_source("return 1", language="typescript"),
            lambda: client.run(kept, engine="deno"),
        ):
            with pytest.raises(RequestRefused, match=r"deno is disabled .* engines\.disabled .* restart") as refused:
                ask()
            assert refused.value.code == "unsupported"
        pong, stats = client.ping(), client.stats()
        assert (list(pong.engines), pong.disabled) == (["quickjs"], ["deno"])
        assert [pool.engine for pool in stats.pools] == ["quickjs"]
        assert stats.held_by["memory (deno)"].startswith("it is disabled")
    assert "the engine deno is disabled" in without_deno.log.read_text()
    assert ctl(without_deno.socket, "ping").stdout.decode().splitlines()[-1] == "deno: disabled"


def test_programs_of_a_disabled_engine_stay_stored(tmp_path: Path) -> None:
    """With QuickJS disabled, its programs stay stored, run if a run names Deno, and run again when it is enabled."""
    enabled = installed_versions()
    with a_daemon(tmp_path) as daemon, Client(daemon.socket) as client:
        kept = client.submit(SOURCE).hash
        assert client.run(kept).engine_version == enabled["quickjs"]
    config = '[engines]\ndefault = "deno"\ndisabled = ["quickjs"]\n'
    with a_daemon(tmp_path, config=config) as daemon, Client(daemon.socket) as client:
        assert not [child for child in children(daemon.process.pid) if b"nsjail" in _command(child)]
        for _ in range(2):  # first from disk, then from memory
            with pytest.raises(RequestRefused, match="quickjs is disabled"):
                client.run(kept)
            assert client.run(kept, engine="deno").value == "object"
        assert client.run_source(SOURCE).engine_version == enabled["deno"]
        assert client.show(kept).engine == "quickjs"
    with a_daemon(tmp_path) as daemon, Client(daemon.socket) as client:
        assert client.run(kept).value == "undefined"


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
