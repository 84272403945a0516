"""Which requests are allowed: hosts, sites and tokens. The application runs in this process, with a real daemon."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import anyio
import httpx2 as httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from promptlogctl.http import Application, Settings
from promptlogctl.http.tokens import TokenError, read_tokens

TOKENS = """
# name rights token
reader run aaaaaaaaaaaaaaaaaaaaaaaa
author run,exec,submit bbbbbbbbbbbbbbbbbbbbbbbb
owner run,exec,submit,manage cccccccccccccccccccccccc
writer submit dddddddddddddddddddddddd
"""


def answered(settings: Settings, *requests: httpx.Request) -> list[int]:
    """Send each request to an application with these settings, and return the status codes."""

    async def main() -> list[int]:
        app = Application(settings)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as web:
            statuses = [(await web.send(request)).status_code for request in requests]
        app.close()
        return statuses

    return anyio.run(main)


def get(path: str, **headers: str) -> httpx.Request:
    """Return a GET request with these headers."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Request("GET", f"http://localhost{path}", headers=named)


@pytest.fixture
def settings(socket_path: Path) -> Settings:
    """Settings for the shared daemon."""
    return Settings(socket=socket_path)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"host": "127.0.0.1:8787"}, 200),
        ({"host": "[::1]:8787"}, 200),
        ({"host": "LOCALHOST"}, 200),
        ({"host": "evil.example"}, 403),
        ({"host": "localhost.evil.example"}, 403),
        ({"host": "127.0.0.1.evil.example:8787"}, 403),
        ({"host": ""}, 403),
        ({"origin": "http://localhost"}, 200),
        ({"origin": "http://localhost:9"}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "ftp://localhost"}, 403),
        ({"host": "localhost:"}, 200),
        ({"host": "localhost."}, 200),
        ({"host": "localhost" + "0" * 300}, 403),
        ({"host": "localhost:" + "0" * 300}, 403),
        ({"sec_fetch_site": "same-origin"}, 200),
        ({"sec_fetch_site": "none"}, 200),
        ({"sec_fetch_site": "cross-site"}, 403),
        ({"sec_fetch_site": "same-site"}, 403),
        ({"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"}, 403),
    ],
)
def test_requests_of_other_sites_are_refused(settings: Settings, headers: dict[str, str], status: int) -> None:
    """A request is refused if its Host is not this server's, or if the browser says that another site sent it."""
    assert answered(settings, get("/programs", **headers)) == [status]


@pytest.mark.parametrize("method_and_path", ["GET /run/x", "POST /exec", "POST /submit", "DELETE /programs/x", "GET /"])
def test_no_path_is_open_to_other_sites(settings: Settings, method_and_path: str) -> None:
    """Every path refuses requests that another site sent, and requests in which Sec-Fetch-Site occurs twice."""
    method, path = method_and_path.split()
    url = f"http://localhost{path}"
    assert answered(
        settings,
        httpx.Request(method, url, headers={"sec-fetch-site": "cross-site"}),
        httpx.Request(method, url, headers={"origin": "http://evil.example"}),
        httpx.Request(method, url, headers=[("sec-fetch-site", "cross-site"), ("sec-fetch-site", "none")]),
    ) == [403, 403, 400]


def test_links_to_the_page_work(settings: Settings) -> None:
    """A link on another site can open the page, because the page runs nothing by itself."""
    link = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"}
    assert answered(settings, get("/", **link), get("/", sec_fetch_site="cross-site")) == [200, 403]


def test_rights(settings: Settings, socket_path: Path, tmp_path: Path) -> None:
    """With tokens, each request needs a token with the right for it; only the health checks and the page need none."""
    path = tmp_path / "tokens"
    path.write_text(TOKENS)
    path.chmod(0o600)
    guarded = Settings(socket=socket_path, tokens=read_tokens(path))
    code = {"code": "return 'rights'"}

    def requests(token: str | None) -> list[httpx.Request]:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        base = "http://localhost"
        return [
            httpx.Request("POST", f"{base}/exec", json=code, headers=headers),
            httpx.Request("POST", f"{base}/submit", json=code, headers=headers),
            httpx.Request("DELETE", f"{base}/programs/{'0' * 64}", headers=headers),
            httpx.Request("GET", f"{base}/healthz", headers=headers),
        ]

    def run(token: str) -> list[httpx.Request]:
        url = f"http://localhost/run/{hashlib.sha256(code['code'].encode()).hexdigest()}"
        headers = {"authorization": f"Bearer {token}"}
        return [httpx.Request("GET", url, headers=headers), httpx.Request("POST", url, json={}, headers=headers)]

    assert answered(guarded, *requests(None)) == [401, 401, 401, 200]
    assert answered(guarded, *requests("a" * 23)) == [401, 401, 401, 200]
    assert answered(guarded, *requests("a" * 24)) == [403, 403, 403, 200]
    assert answered(guarded, *requests("b" * 24)) == [200, 200, 403, 200]
    assert answered(guarded, *requests("c" * 24)) == [200, 200, 404, 200]
    assert answered(guarded, *run("a" * 24)) == [200, 200]
    assert answered(guarded, *run("d" * 24)) == [403, 403]


def test_moving_a_name_needs_the_right_manage(settings: Settings, socket_path: Path, tmp_path: Path) -> None:
    """A token without `manage` can set a new name but not move one: the status is 403, and the name stays."""
    path = tmp_path / "tokens"
    path.write_text(TOKENS)
    path.chmod(0o600)
    guarded = Settings(socket=socket_path, tokens=read_tokens(path))

    async def main() -> None:
        app = Application(guarded)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as web:

            async def submit(token: str, code: str, name: str) -> httpx.Response:
                headers = {"authorization": f"Bearer {token * 24}"}
                return await web.post("/submit", json={"code": code, "name": name}, headers=headers)

            async def run() -> object:
                return (await web.get("/run/@seven", headers={"authorization": f"Bearer {'a' * 24}"})).json()

            first = (await submit("b", "return 7", "seven")).json()
            assert list(first) == ["hash", "url"]
            assert (await submit("b", "return 7", "seven")).json() == first
            refused = await submit("b", "return 8", "seven")
            assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
            assert refused.json()["on"] == first["hash"]
            assert "'manage'" in refused.json()["detail"]
            assert await run() == 7
            moved = (await submit("c", "return 8", "seven")).json()
            assert moved["moved_from"] == first["hash"]
            assert await run() == 8
        app.close()

    anyio.run(main)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "has no token"),
        ("a run\n", "it has 2 words"),
        ("a fly aaaaaaaaaaaaaaaaaaaa\n", "the right 'fly' is unknown"),
        ("a run short\n", "fewer than 16"),
        ("a run aaaaaaaaaaaaaaaaaaaa\na run bbbbbbbbbbbbbbbbbbbb\n", "already"),
        ("a run aaaaaaaaaaaaaaaaaaaa\nb run aaaaaaaaaaaaaaaaaaaa\n", "the same token"),
        ("x" * 2_000_000, "more than"),
    ],
)
def test_invalid_token_files(tmp_path: Path, content: str, why: str) -> None:
    """A token file with a mistake is refused, and the error names the mistake."""
    path = tmp_path / "tokens"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(TokenError, match=why):
        read_tokens(path)


def test_unreadable_and_unsafe_token_files(tmp_path: Path) -> None:
    """A token file is refused if other users can read it, if it does not exist, or if it is not a regular file."""
    path = tmp_path / "tokens"
    path.write_text(TOKENS)
    path.chmod(0o640)
    with pytest.raises(TokenError, match="chmod 600"):
        read_tokens(path)
    with pytest.raises(TokenError, match="can't read"):
        read_tokens(tmp_path / "none")
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(TokenError, match="is not a file"):
        read_tokens(tmp_path / "pipe")


def test_the_application_can_be_mounted(settings: Settings) -> None:
    """The application works below a path of another application without a lifespan, and its URLs include the path."""

    async def main() -> None:
        mounted = Application(settings)
        whole = Starlette(routes=[Mount("/code", mounted)])
        async with httpx.AsyncClient(transport=httpx.ASGITransport(whole), base_url="http://localhost") as web:
            url = (await web.post("/code/submit", json={"code": "return 'mounted'"})).json()["url"]
            assert url.startswith("/code/run/")
            assert (await web.get(url)).json() == "mounted"
            assert (await web.get("/code/healthz")).json() == {"status": "alive"}
        mounted.close()

    anyio.run(main)
