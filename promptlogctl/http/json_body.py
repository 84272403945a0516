"""Reads the JSON body of a request, with limits in size and time."""

from __future__ import annotations

from typing import Any, TypeVar

import anyio
import msgspec
from starlette.requests import Request

from promptlogctl.client import LimitsAsked
from promptlogctl.http.problems import Problem

_B = TypeVar("_B")

BODY_BYTES = 8 * 1024 * 1024
"""Maximum size of a body, the same as of a message to the daemon. A prompt of 1 MiB takes up to 6 MiB in JSON."""

BODY_S = 30.0
"""Time limit for a body, from the end of the head on."""

_QUOTED, _PLACE = 250, 50
"""Characters of an explanation, at its begin and, with the place in the body, at its end."""


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
        raise Problem(400, "bad_request", f"the body does not match the schema: {_explained(error, decoder)}") from None
    except msgspec.DecodeError as error:
        raise Problem(400, "bad_request", f"the body is not JSON: {error}") from None
    except (UnicodeDecodeError, RecursionError) as error:
        raise Problem(400, "bad_request", f"the body is not JSON: {error}") from None


def _explained(error: msgspec.ValidationError, decoder: msgspec.json.Decoder[Any]) -> str:
    """Return what is wrong with a body in terms of the API: a rule for a name, and the known members for an unknown."""
    text = str(error)
    if len(text) > _QUOTED:  # it repeats what came
        text = f"{text[:_QUOTED]}... {text[-_PLACE:]}"
    if text.endswith("`$.name`") and "regex" in text:
        return "`name` must begin with a letter or a digit, and have up to 64 of these, '.', '_' or '-'"
    if "unknown field" in text:
        known = LimitsAsked if text.endswith("`$.limits`") else decoder.type
        return f"{text}; there is: {', '.join(known.__struct_fields__)}"
    return text


def _too_large() -> Problem:
    detail = f"the body has more than {BODY_BYTES} bytes"
    return Problem(413, "too_large", detail, headers={"connection": "close"}, limit=BODY_BYTES)
