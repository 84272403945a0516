"""The decoder's answers. Pure. This runs in the decoder's process, where it does not block the daemon."""

from __future__ import annotations

from promptlogd.decoder.messages import (
    RECORD,
    Kind,
    Record,
    Refused,
    Right,
    Unreadable,
    Wrong,
    answer,
    answer_request,
    encode_record,
    encoding_of,
)
from promptlogd.wire import BadMessage, ProtocolError, TextBounds, oversize, read_request
from sandbox.engines.host.outcomes import read_value
from sandbox.outcome import Ok


def answer_to(kind: Kind, payload: bytes, bounds: TextBounds) -> bytes:
    """Return the answer to a question: a request that the daemon decodes quickly, or an error."""
    if kind == "value":
        outcome = read_value(payload)
        return _record(Right() if isinstance(outcome, Ok) else Wrong(outcome=outcome))
    try:
        request = read_request(payload, encoding_of(kind), bounds)
    except ProtocolError as error:
        return _record(Unreadable(code=error.code, message=error.message))
    wrong = request if isinstance(request, BadMessage) else oversize(request, bounds)
    if wrong is not None:
        return _record(Refused(id=wrong.id, code=wrong.code, message=wrong.message, detail=wrong.detail))
    assert not isinstance(request, BadMessage)
    return answer_request(request)


def _record(record: Record) -> bytes:
    return answer(RECORD, encode_record(record))
