"""Reads the JSON body of a request, with limits in size and time."""

from __future__ import annotations

from typing import TypeVar

import anyio
import msgspec
from starlette.requests import Request

from promptlogctl.http.problems import Problem

_B = TypeVar("_B")

BODY_BYTES = 8 * 1024 * 1024
"""Maximum size of a body, the same as of a message to the daemon. A prompt of 1 MiB takes up to 6 MiB in JSON."""

BODY_S = 30.0
"""Time limit for a body, from the end of the head on."""


async def json_body(request: Request, decoder: msgspec.json.Decoder[_B]) -> _B:
    """Decode a body. Raises Problem if it is too large, too slow, not JSON, or does not match the schema."""
    content_type = request.headers.get("content-type", "")
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise Problem(415, "not_json", "send the body as JSON, with Content-Type: application/json")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Problem(415, "not_json", "send the body without Content-Encoding")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and (len(length) > 15 or int(length) > BODY_BYTES):
        raise _too_large()
    body = bytearray()
    with anyio.move_on_after(BODY_S) as time:
        async for part in request.stream():
            body += part
            if len(body) > BODY_BYTES:
                raise _too_large()
    if time.cancelled_caught:
        raise Problem(408, "too_slow", f"the body did not arrive within {BODY_S:g} s", headers={"connection": "close"})
    try:
        str(body, "utf-8")  # the decoder does not check raw fields such as `env`
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise Problem(400, "bad_request", f"the body does not match the schema: {error}") from None
    except msgspec.DecodeError as error:
        raise Problem(400, "bad_request", f"the body is not JSON: {error}") from None
    except (UnicodeDecodeError, RecursionError) as error:
        raise Problem(400, "bad_request", f"the body is not JSON: {error}") from None


def _too_large() -> Problem:
    detail = f"the body has more than {BODY_BYTES} bytes"
    return Problem(413, "too_large", detail, headers={"connection": "close"}, limit=BODY_BYTES)
