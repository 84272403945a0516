"""Fixtures of the HTTP tests: one server for all tests, and a client of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import pytest

from tests.http.servers import http_server


@pytest.fixture(scope="session")
def url(socket_path: Path) -> Iterator[str]:
    """The URL of a server for the shared daemon."""
    with http_server(daemon=socket_path) as url:
        yield url


@pytest.fixture
def web(url: str) -> Iterator[httpx.Client]:
    """An HTTP client of that server."""
    with httpx.Client(base_url=url, timeout=20) as client:
        yield client
