"""Settings of the HTTP API. `promptlogctl http` passes them to its processes in environment variables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from promptlogctl.http.tokens import Tokens, read_tokens

SOCKET, HOSTS, TOKENS = "PROMPTLOG_SOCKET", "PROMPTLOG_HTTP_HOSTS", "PROMPTLOG_HTTP_TOKENS"

LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "[::1]")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the HTTP API."""

    socket: Path | None = None
    """The daemon's socket. Default: $PROMPTLOG_SOCKET, else the default path of this user's daemon."""
    hosts: frozenset[str] | None = frozenset(LOOPBACK_HOSTS)
    """Accepted host names, without a port. None: any, for a server that browsers cannot reach."""
    tokens: Tokens | None = None
    """Tokens of users. None: everybody who can connect may use the API."""


def settings_from_environment(environment: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings from environment variables. Raises TokenError."""
    hosts, tokens, socket = (environment.get(name) for name in (HOSTS, TOKENS, SOCKET))
    return Settings(
        socket=Path(socket) if socket else None,
        hosts=hosts_of(hosts) if hosts else frozenset(LOOPBACK_HOSTS),
        tokens=read_tokens(Path(tokens)) if tokens else None,
    )


def hosts_of(text: str) -> frozenset[str] | None:
    """Return the comma-separated host names in a text; None for `*`."""
    return None if text == "*" else frozenset(host.strip().lower() for host in text.split(",") if host.strip())
