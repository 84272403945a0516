"""Conditional requests: an ETag, and 304 if the client already has the content (RFC 9110, 13.1.2)."""

from __future__ import annotations

import hashlib

from starlette.requests import Request
from starlette.responses import Response


def etag_of(content: bytes) -> str:
    """Return the entity tag of a content."""
    return f'"{hashlib.sha256(content).hexdigest()[:32]}"'


def unless_known(request: Request, content: bytes, etag: str, media_type: str) -> Response:
    """Return the content, or 304 if `If-None-Match` says that the client has it. The client must revalidate each
    time."""
    headers = {"etag": etag, "cache-control": "no-cache"}
    known = {tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")}
    if etag in known or "*" in known:
        return Response(None, 304, headers)
    return Response(content, 200, headers | {"content-type": media_type})
