"""What the command line and the clients say of quotas, owners and visibility."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from promptlogctl.client import AsyncClient, Client, RequestRefused
from tests.ctl.command import ctl
from tests.daemons import configured_daemon

_CONFIG = "[pool]\ncells = 1\n[quotas.user]\nruns_per_s = 0.01\nruns_burst = 2\nprograms = 1\n"


def test_a_quota_that_is_used_up() -> None:
    """`promptlogctl` exits with 4 and says when to try again; both clients have the time as `retry_after_s`."""
    with configured_daemon(_CONFIG) as socket:
        for _ in range(2):
            assert ctl(socket, "exec", "-e", "return 1").returncode == 0
        refused = ctl(socket, "exec", "-e", "return 1")
        assert refused.returncode == 4
        assert "has used up its quota of 0.01 runs per second; try again in " in refused.stderr.decode()
        as_json = ctl(socket, "exec", "-e", "return 1", "--json")
        assert '"code":"quota"' in as_json.stdout.decode()
        with Client(socket) as client, pytest.raises(RequestRefused) as raised:
            client.run_source("return 1")
        assert raised.value.code == "quota"
        assert raised.value.retry_after_s is not None
        assert 0 < raised.value.retry_after_s <= 100
        with Client(socket) as client, pytest.raises(RequestRefused) as raised:
            client.show("@none")
        assert raised.value.retry_after_s is None

        async def run() -> None:
            async with AsyncClient(socket) as client:
                with pytest.raises(RequestRefused) as raised:
                    await client.run_source("return 1")
            assert raised.value.retry_after_s is not None

        anyio.run(run)


def test_visibility(tmp_path: Path) -> None:
    """`submit` and `name` take a visibility, and `show` says who holds the program and who sees it."""
    program = tmp_path / "program.js"
    program.write_text("return 1")
    with configured_daemon("[pool]\ncells = 1\n") as socket:
        submitted = ctl(socket, "submit", str(program), "--visibility", "own")
        hash = submitted.stdout.decode().strip()
        assert ctl(socket, "name", "x", hash, "--visibility", "group").returncode == 0
        shown = ctl(socket, "show", "@x").stdout.decode()
        assert "holder     uid 0 since " in shown
        assert shown.rstrip().count("visible to this holder only") == 1
        assert ctl(socket, "submit", str(program), "--visibility", "all").returncode == 0
        assert "visible to everyone" in ctl(socket, "show", "@x").stdout.decode()
        assert ctl(socket, "submit", str(program), "--visibility", "nobody").returncode == 2
