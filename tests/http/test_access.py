"""Tenants over HTTP: what each token owns, and quotas as 429 with Retry-After."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import httpx2 as httpx
import pytest

from promptlogctl.client import RequestRefused
from promptlogctl.http import Application, Settings
from promptlogctl.http.backend import Backend
from promptlogctl.http.problems import Problem
from promptlogctl.http.tokens import read_tokens
from promptlogd.wire.messages import Error
from tests.daemons import configured_daemon

_TOKENS = """
alice run,exec,submit aaaaaaaaaaaaaaaaaaaaaaaa
bob run,exec,submit bbbbbbbbbbbbbbbbbbbbbbbb
operator run,exec,submit,manage cccccccccccccccccccccccc
"""
_CONFIG = """
[pool]
cells = 1
[quotas.tenant]
runs_per_s = 0.02
runs_burst = 3
[[quotas.rules]]
tenants = ["token operator", "http *"]
"""

_Ask = Callable[..., Awaitable[httpx.Response]]


def _asked(settings: Settings, main: Callable[[_Ask], Awaitable[None]]) -> None:
    """Call this with what sends a request as the owner of a token."""

    async def run() -> None:
        app = Application(settings)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as web:

            async def ask(token: str | None, method: str, path: str, **options: object) -> httpx.Response:
                headers = {} if token is None else {"authorization": f"Bearer {token * 24}"}
                return await web.request(method, path, headers=headers, **options)  # type: ignore[arg-type]

            await main(ask)
        app.close()

    anyio.run(run)


def test_tokens_own_programs_and_have_quotas(tmp_path: Path) -> None:
    """A token sees neither what another hides nor reads its source; `manage` gives both; a used-up quota is 429."""
    path = tmp_path / "tokens"
    path.write_text(_TOKENS)
    path.chmod(0o600)

    async def main(ask: _Ask) -> None:
        hidden = (await ask("a", "POST", "/submit", json={"code": "return 'a'", "visibility": "own"})).json()["hash"]
        shown = (await ask("a", "POST", "/submit", json={"code": "return 'b'"})).json()["hash"]
        assert (await ask("a", "GET", f"/programs/{hidden}?code=1")).json()["code"] == "return 'a'"
        assert [(await ask("b", "GET", f"/{what}/{hidden}")).status_code for what in ("run", "programs")] == [404, 404]
        statuses = [(await ask("b", "GET", f"/programs/{shown}{query}")).status_code for query in ("", "?code=1")]
        assert statuses == [200, 403]
        assert hidden not in (await ask("b", "GET", "/programs")).text
        assert (await ask("a", "POST", "/exec", json={"code": "return 1"})).status_code == 200
        refused = await ask("a", "POST", "/exec", json={"code": "return 1"})
        assert refused.status_code == 429
        assert (refused.json()["code"], refused.json()["quota"]) == ("quota", "runs_per_s")
        after_s = int(refused.headers["retry-after"])
        assert 1 <= after_s <= 50
        assert after_s - 1 < refused.json()["retry_after_ms"] / 1000 <= after_s
        assert (await ask("b", "POST", "/exec", json={"code": "return 1"})).status_code == 200
        assert (await ask("c", "GET", f"/programs/{hidden}?code=1")).status_code == 200
        assert (await ask("c", "DELETE", f"/programs/{hidden}")).status_code == 200
        assert (await ask("a", "GET", f"/programs/{hidden}")).status_code == 404

    with configured_daemon(_CONFIG) as socket:
        _asked(Settings(socket=socket, tokens=read_tokens(path)), main)


def test_without_tokens_everyone_manages_what_came_over_http() -> None:
    """Without tokens, each connection sees, reads and removes what another has stored, whatever its visibility."""

    async def first(ask: _Ask) -> None:
        answer = await ask(None, "POST", "/submit", json={"code": "return 'x'", "visibility": "own", "name": "x"})
        assert answer.status_code == 200

    async def second(ask: _Ask) -> None:
        assert (await ask(None, "GET", "/run/@x")).json() == "x"
        listed = (await ask(None, "GET", "/programs")).json()["programs"]
        assert [row["visibility"] for row in listed] == ["own"]
        assert (await ask(None, "DELETE", "/programs/@x")).status_code == 200

    with configured_daemon(_CONFIG) as socket:
        for main in (first, second):
            _asked(Settings(socket=socket), main)


def test_tokens_need_a_daemon_that_accepts_tenants(tmp_path: Path) -> None:
    """If the daemon refuses tenants, a server with tokens answers 503; else all tokens would own the same programs."""
    (tmp_path / "tokens").write_text(_TOKENS)
    (tmp_path / "tokens").chmod(0o600)
    backend = Backend(Settings(tokens=read_tokens(tmp_path / "tokens")))
    refused = RequestRefused(Error(code="forbidden", message="no front", detail={"field": "tenant"}))
    for _ in range(2):
        with pytest.raises(Problem) as raised:
            backend._raise_unless_tenant(refused, "token alice")
        assert raised.value.status == 503
