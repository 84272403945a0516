"""ASGI middleware in front of all endpoints, which refuses malformed and cross-site requests.

A page of another site can make its visitor's browser send requests to this server. So a request is refused if its Host
is not one of this server's (DNS rebinding), or if the browser reports that another site made it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable
from functools import lru_cache
from time import perf_counter
from urllib.parse import unquote_to_bytes

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from promptlogctl.http.problems import Problem
from promptlogctl.http.settings import Settings
from promptlogctl.http.tokens import Token

_log = logging.getLogger("promptlogctl.http")

HEAD_BYTES = 64 * 1024
"""Maximum size of the request target and headers. A prompt in the target may be nearly as long."""

_HEADERS = 100
_HOST_BYTES = 262
"""Maximum size of a Host header: a name of the DNS with 255 bytes, and a port."""

_PERCENT = ord("%")  # a search for b"%" takes ten times as long
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_UNUSUAL = re.compile(rb"%(?!0[1-9A-Fa-f]|[1-7][0-9A-Fa-f])|[\0\x80-\xff]")
"""A bad escape, a NUL, or a byte that is not ASCII."""
_CALLER = "promptlog.caller"

_SAFE_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
]
_OPEN = ("/", "/healthz", "/readyz", "/openapi.json")
"""Paths without a token, in addition to `/static/...`."""


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """The sender of a request."""

    tenant: str
    """The name of the token, or the HTTP connection. The daemon divides CPU time among tenants."""
    owner: str
    """The tenant that owns what the sender stores: the same, but without the port of a connection."""
    token: Token | None
    needs_token: bool

    def has(self, right: str) -> bool:
        """Whether the sender may do this: without tokens everybody, else by the rights of the token."""
        return not self.needs_token or (self.token is not None and right in self.token.rights)

    def require(self, right: str) -> None:
        """Raise Problem if the token lacks a right. The guard has already refused requests without a token."""
        if not self.has(right):
            raise Problem(403, "forbidden", f"this token does not have the right {right!r}")


_NAMELESS = Caller(tenant="http", owner="http", token=None, needs_token=False)


@lru_cache(maxsize=1000)
def _caller_from(host: str, port: int) -> Caller:
    return Caller(tenant=f"http {host}:{port}", owner=f"http {host}", token=None, needs_token=False)


def caller_of(scope: Scope) -> Caller:
    """Return the sender of a request."""
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
        began, status, is_head = perf_counter(), 0, scope["method"] == "HEAD"

        def answer(message: Message) -> Awaitable[None]:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *_SAFE_HEADERS]
            elif is_head:  # its answer has the head that GET's has, Content-Length included, and no body
                message["body"] = b""
            return send(message)

        try:
            scope[_CALLER] = self._check(scope)
            await self._app(scope, receive, answer)
        except Problem as problem:
            await problem(scope, receive, answer)
        except Exception:
            _log.exception("a request failed")
            if status:  # the response has started: the server closes the connection
                raise
            await Problem(500, "internal", "the server failed; its log has the details")(scope, receive, answer)
        finally:
            if _log.isEnabledFor(logging.INFO):
                path = scope["path"][:200]
                _log.info("%s %r %d %.1f ms", scope["method"], path, status, (perf_counter() - began) * 1000)

    def _check(self, scope: Scope) -> Caller:
        """Return the sender of a request. Raises Problem if the request is refused."""
        raw = scope.get("raw_path") or scope["path"].encode()
        query = scope["query_string"]
        size = len(raw) + len(query)
        if _PERCENT in raw or not raw.isascii():
            _check_escapes(raw, "path")
        if _PERCENT in query or not query.isascii():
            _check_escapes(query, "query")
        host = origin = site = mode = presented = None
        hosts = 0
        for name, value in scope["headers"]:
            size += len(name) + len(value)
            match name:
                case b"host":
                    host, hosts = value, hosts + 1
                case b"origin":
                    origin = _only(name, origin, value)
                case b"sec-fetch-site":
                    site = _only(name, site, value)
                case b"sec-fetch-mode":
                    mode = _only(name, mode, value)
                case b"authorization":
                    presented = _only(name, presented, value)
        if size > HEAD_BYTES or len(scope["headers"]) > _HEADERS:
            most = f"{HEAD_BYTES} bytes and {_HEADERS} headers"
            raise Problem(
                431, "head_too_large", f"request target and headers may have {most}; send a long prompt in the body"
            )
        self._check_host(host, hosts, scope["http_version"])
        self._check_site(scope, host, origin, site, mode)
        return self._caller(scope, presented)

    def _check_host(self, host: bytes | None, hosts: int, version: str) -> None:
        if hosts > 1 or (hosts == 0 and version != "1.0"):
            raise Problem(400, "bad_host", f"a request must have one Host header, this one has {hosts}")
        allowed = self._settings.hosts
        if allowed is not None and host is not None and (len(host) > _HOST_BYTES or _name_of(host) not in allowed):
            raise Problem(
                403, "bad_host", "the Host is not one of this server's; name it with --host, or PROMPTLOG_HTTP_HOSTS"
            )

    def _check_site(
        self, scope: Scope, host: bytes | None, origin: bytes | None, site: bytes | None, mode: bytes | None
    ) -> None:
        """Raise Problem for a cross-site request. A link to the page itself is allowed."""
        if origin is not None:
            scheme, _, authority = origin.partition(b"://")
            if authority != host or scheme not in (b"http", b"https"):
                raise Problem(403, "other_site", "this request was made by a page of another site")
        if site is None or site in (b"same-origin", b"none"):
            return
        if mode == b"navigate" and scope["method"] == "GET" and own_path(scope) == "/":
            return
        raise Problem(403, "other_site", "this request was made by a page of another site")

    def _caller(self, scope: Scope, presented: bytes | None) -> Caller:
        tokens = self._settings.tokens
        if tokens is None:
            client = scope.get("client")
            return _caller_from(client[0], client[1]) if client else _NAMELESS
        token = None
        if presented is not None:
            scheme, _, text = presented.partition(b" ")
            token = tokens.find(text.strip()) if scheme.lower() == b"bearer" else None
        path = own_path(scope)
        if token is None and path not in _OPEN and not path.startswith("/static/"):
            why = "the token is unknown" if presented is not None else "send a token: Authorization: Bearer TOKEN"
            raise Problem(401, "unauthorized", why, headers={"www-authenticate": 'Bearer realm="promptlog"'})
        tenant = "http" if token is None else f"token {token.name}"
        return Caller(tenant=tenant, owner=tenant, token=token, needs_token=True)


def _only(name: bytes, known: bytes | None, value: bytes) -> bytes:
    """Return the value of a header that may be sent only once. Raises Problem for the second one."""
    if known is not None:
        raise Problem(400, "bad_request", f"the header {name.decode()} may be sent only once")
    return value


def _check_escapes(raw: bytes, what: str) -> None:
    """Raise Problem if a path or a query has a bad percent escape, bytes that are not UTF-8, or (a path) a NUL."""
    if _UNUSUAL.search(raw) is None:
        return
    bad = _BAD_ESCAPE.search(raw)
    if bad is not None:
        raise Problem(400, "bad_target", f"the {what} has a % at byte {bad.start()} without two hex digits after it")
    try:
        text = unquote_to_bytes(raw).decode()
    except UnicodeDecodeError as error:
        raise Problem(400, "bad_target", f"the decoded {what} is not UTF-8, at byte {error.start}") from None
    if "\0" in text and what == "path":
        raise Problem(400, "bad_target", "the path has a NUL character")


@lru_cache(maxsize=100)
def _name_of(host: bytes) -> str:
    """Return the name in a Host header, without the port."""
    text = host.decode("latin-1").lower()
    name, colon, port = text.rpartition(":")
    if colon and (port.isdecimal() or not port) and not name.endswith(":"):
        text = name
    return text.removesuffix(".")


def own_path(scope: Scope) -> str:
    """Return the path relative to the mount point of the application."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    return (path[len(root) :] if root and path.startswith(root) else path) or "/"
