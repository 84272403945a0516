"""Reads the query of a request. A parameter that the path does not have is refused, as an unknown JSON member is."""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

from starlette.requests import Request

from promptlogctl.http.problems import Problem

_PERCENT = ord("%")

_SHOWN = 40
"""Characters of an unknown parameter's name that the error repeats."""


def query_of(request: Request, *known: str) -> dict[str, str]:
    """Return the parameters of a query, of each the first value. Raises Problem for one that is not `known`.

    The guard has checked the escapes, and bounds the length.
    """
    query: bytes = request.scope["query_string"]
    found: dict[str, str] = {}
    for part in query.split(b"&") if query else ():
        name, _, value = part.partition(b"=")
        if not part:
            continue
        key = _text(name)
        if key not in known:
            raise Problem(400, "bad_request", f"the query parameter {key[:_SHOWN]!r} is unknown; {_there_is(known)}")
        found.setdefault(key, _text(value))
    return found


def _text(encoded: bytes) -> str:
    encoded = encoded.replace(b"+", b" ")
    return (unquote_to_bytes(encoded) if _PERCENT in encoded else encoded).decode()


def _there_is(known: tuple[str, ...]) -> str:
    return f"there is: {', '.join(known)}" if known else "there is none here; a POST takes its values in the body"
