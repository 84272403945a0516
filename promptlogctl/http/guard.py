"""Refuses what no endpoint should see. ASGI middleware, in front of all endpoints.

A page of another site can make its visitor's browser send requests to this server. So a request is refused
if its Host is not one of this server's (DNS rebinding), or if the browser says that another site made it.
"""

from __future__ import annotations

import logging
import re
from time import perf_counter
from urllib.parse import unquote_to_bytes

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from promptlogctl.http.problems import Problem
from promptlogctl.http.settings import Settings
from promptlogctl.http.tokens import Token

_log = logging.getLogger("promptlogctl.http")

HEAD_BYTES = 64 * 1024
"""The target and headers of a request. A prompt in the target may be nearly as long."""

_HEADERS = 100
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_CALLER = "promptlog.caller"

_SAFE_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
]
_OPEN = ("/", "/healthz", "/readyz", "/openapi.json")
"""Paths that need no token, with `/static/`."""


class Caller(msgspec.Struct, frozen=True):
    """Who sends a request."""

    tenant: str
    """The name of the token, else the HTTP connection. The daemon shares its time among tenants."""
    token: Token | None
    needs_token: bool

    def require(self, right: str) -> None:
        """Raise Problem unless the caller has a right."""
        if not self.needs_token:
            return
        if self.token is None:
            challenge = {"www-authenticate": 'Bearer realm="promptlog"'}
            raise Problem(401, "unauthorized", "send a token: Authorization: Bearer TOKEN", headers=challenge)
        if right not in self.token.rights:
            raise Problem(403, "forbidden", f"the token of {self.token.name} does not have the right {right!r}")


def caller_of(scope: Scope) -> Caller:
    """Return who sends a request."""
    caller = scope[_CALLER]
    assert isinstance(caller, Caller)
    return caller


class Guard:
    """Checks each request, adds headers to each response, and logs both without prompts."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1003})
            return
        began, status = perf_counter(), 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *_SAFE_HEADERS]
            await send(message)

        try:
            scope[_CALLER] = self._check(scope)
            await self._app(scope, receive, answer)
        except Problem as problem:
            await problem(scope, receive, answer)
        except Exception:
            _log.exception("a request failed")
            if status:  # the response has begun: the server closes the connection
                raise
            await Problem(500, "internal", "the server failed; its log says how")(scope, receive, answer)
        finally:
            if _log.isEnabledFor(logging.INFO):
                path = scope["path"][:200]
                _log.info("%s %r %d %.1f ms", scope["method"], path, status, (perf_counter() - began) * 1000)

    def _check(self, scope: Scope) -> Caller:
        """Return who sends a request. Raises Problem for one that is refused."""
        raw = scope.get("raw_path") or scope["path"].encode()
        query = scope["query_string"]
        size = len(raw) + len(query)
        if b"%" in raw or not raw.isascii():
            strictly_decoded(raw, "path")
        if b"%" in query or not query.isascii():
            strictly_decoded(query.replace(b"+", b" "), "query")
        host = origin = site = mode = presented = None
        hosts = 0
        for name, value in scope["headers"]:
            size += len(name) + len(value)
            match name:
                case b"host":
                    host, hosts = value, hosts + 1
                case b"origin":
                    origin = value
                case b"sec-fetch-site":
                    site = value
                case b"sec-fetch-mode":
                    mode = value
                case b"authorization":
                    presented = value
        if size > HEAD_BYTES or len(scope["headers"]) > _HEADERS:
            most = f"{HEAD_BYTES} bytes and {_HEADERS} headers"
            raise Problem(431, "head_too_large", f"target and headers may have {most}; send a long prompt in the body")
        self._check_host(host, hosts, scope["http_version"])
        self._check_site(scope, host, origin, site, mode)
        return self._caller(scope, presented)

    def _check_host(self, host: bytes | None, hosts: int, version: str) -> None:
        if hosts > 1 or (hosts == 0 and version != "1.0"):
            raise Problem(400, "bad_host", f"a request has one Host header, and this one has {hosts}")
        allowed = self._settings.hosts
        if allowed is not None and host is not None and _name_of(host) not in allowed:
            raise Problem(
                403, "bad_host", "the Host is not one of this server's; name it with --host, or PROMPTLOG_HTTP_HOSTS"
            )

    def _check_site(
        self, scope: Scope, host: bytes | None, origin: bytes | None, site: bytes | None, mode: bytes | None
    ) -> None:
        """Refuse what another site's page asks for, but for a link to the page that tries programs."""
        if origin is not None:
            _, _, authority = origin.partition(b"://")
            if authority != host:
                raise Problem(403, "other_site", "another site's page made this request")
        if site is None or site in (b"same-origin", b"none"):
            return
        if mode == b"navigate" and scope["method"] == "GET" and own_path(scope) == "/":
            return
        raise Problem(403, "other_site", "another site's page made this request")

    def _caller(self, scope: Scope, presented: bytes | None) -> Caller:
        tokens = self._settings.tokens
        if tokens is None:
            client = scope.get("client")
            return Caller(f"http {client[0]}:{client[1]}" if client else "http", None, needs_token=False)
        token = None
        if presented is not None:
            scheme, _, text = presented.partition(b" ")
            token = tokens.find(text.strip()) if scheme.lower() == b"bearer" else None
        path = own_path(scope)
        if token is None and path not in _OPEN and not path.startswith("/static/"):
            why = "the token is unknown" if presented is not None else "send a token: Authorization: Bearer TOKEN"
            raise Problem(401, "unauthorized", why, headers={"www-authenticate": 'Bearer realm="promptlog"'})
        return Caller("http" if token is None else f"token {token.name}"[:128], token, needs_token=True)


def strictly_decoded(raw: bytes, what: str) -> str:
    """Return a part of a target with its escapes decoded. Raises Problem for a bad escape, and for bad UTF-8."""
    bad = _BAD_ESCAPE.search(raw)
    if bad is not None:
        raise Problem(400, "bad_target", f"the {what} has a % at byte {bad.start()} that two hex digits do not follow")
    try:
        text = unquote_to_bytes(raw).decode()
    except UnicodeDecodeError as error:
        raise Problem(
            400, "bad_target", f"the {what} is not UTF-8, at byte {error.start} of what it decodes to"
        ) from None
    if "\0" in text and what == "path":
        raise Problem(400, "bad_target", "the path has a NUL character")
    return text


def _name_of(host: bytes) -> str:
    """Return a Host without its port."""
    text = host.decode("latin-1").lower()
    name, colon, port = text.rpartition(":")
    return name if colon and port.isdigit() and not name.endswith(":") else text


def own_path(scope: Scope) -> str:
    """Return the path below where the application is mounted."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    return (path[len(root) :] if root and path.startswith(root) else path) or "/"
