"""Adding an engine takes one folder and one line in the list."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import msgspec
import pytest
import trio

from promptlogctl.client import Client, RequestRefused
from promptlogd.config import Config, PoolSettings
from promptlogd.config_files import load
from promptlogd.server import serve
from promptlogd.settings import Settings
from sandbox.engines import ENGINES
from tests.engines.echo import SPEC


async def test_a_third_engine_needs_a_folder_and_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a third entry in the list, the daemon checks, stores and runs programs on that engine, and reports on it."""
    monkeypatch.setitem(ENGINES, SPEC.name, SPEC)
    config = Config(pool=PoolSettings(cells=1, spare=0))

    def use() -> None:
        with Client(tmp_path / "s") as client:
            kept = client.submit("anything", engine="echo")
            assert kept.engine == "echo"
            for prompt in ("a", "b"):
                assert client.run(kept.hash, prompt).value == prompt
            assert client.run_source("other", "c", engine="echo").value == "c"
            assert client.run_source("return prompt", "d").value == "d"
            stats = client.stats()
            assert [pool.engine for pool in stats.pools] == ["quickjs", "deno", "echo"]
            assert stats.pools[2].started >= 3
            assert stats.held_by["memory (echo)"] == "nothing: it is for tests"
            with pytest.raises(RequestRefused, match="the engines are: 'quickjs', 'deno', 'echo'"):
                client.run_source("1", engine="ech")

    ready = trio.Event()
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            start = partial(
                serve,
                settings=Settings(config),
                socket_path=tmp_path / "s",
                state_dir=tmp_path / "state",
                ready=ready.set,
            )
            nursery.start_soon(start)
            await ready.wait()
            await trio.to_thread.run_sync(use)
            nursery.cancel_scope.cancel()


def test_the_configuration_supports_a_third_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A third engine can be the default, and the least memory of a run is that of the engine."""
    file = tmp_path / "config.toml"
    file.write_text('[engines]\ndefault = "echo"\n')
    monkeypatch.setitem(ENGINES, SPEC.name, SPEC)
    config = load(file)
    assert config.engines.default == "echo"
    small = msgspec.structs.replace(SPEC, min_memory_bytes=512 << 20)
    monkeypatch.setitem(ENGINES, SPEC.name, small)
    assert config.default_limits("echo").memory_bytes == 512 << 20
