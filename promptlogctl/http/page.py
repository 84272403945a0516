"""The web page for trying programs, and its files."""

from __future__ import annotations

from importlib import resources
from importlib.resources.abc import Traversable

from starlette.requests import Request
from starlette.responses import Response

from promptlogctl.http.conditional import etag_of, unless_known
from promptlogctl.http.problems import Problem

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    )
)
"""The page's Content-Security-Policy: only this server's own files. Output of a program can't become script or
markup."""


class Page:
    """Serves the files in `static/`. Each is read once, at its first request."""

    def __init__(self) -> None:
        self._files: dict[str, tuple[bytes, str]] = {}

    async def index(self, request: Request) -> Response:
        """Return the page."""
        response = self._response(request, "index.html")
        response.headers["content-security-policy"] = _POLICY
        response.headers["referrer-policy"] = "no-referrer"
        return response

    async def static(self, request: Request) -> Response:
        """Return a file that the page loads."""
        return self._response(request, request.path_params["path"])

    def _response(self, request: Request, name: str) -> Response:
        content, etag = self._file(name)
        return unless_known(request, content, etag, _TYPES[name[name.rfind(".") :]])

    def _file(self, name: str) -> tuple[bytes, str]:
        found = self._files.get(name)
        if found is None:
            file = _find(name)
            if file is None:
                raise Problem(404, "no_path", "there is nothing at this path")
            content = file.read_bytes()
            found = self._files[name] = content, etag_of(content)
        return found


def _find(name: str) -> Traversable | None:
    """Find a file in `static/`. Each component of the path must be the name of an entry there."""
    at: Traversable = resources.files("promptlogctl.http") / "static"
    for part in name.split("/"):
        entries = {entry.name: entry for entry in at.iterdir()} if at.is_dir() else {}
        if part not in entries:
            return None
        at = entries[part]
    return at if at.is_file() and at.name[at.name.rfind(".") :] in _TYPES else None
