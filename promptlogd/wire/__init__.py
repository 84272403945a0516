"""The protocol, sans-IO: messages, framing, errors. Bytes in, messages out; no trio, no sockets, no clock."""

from promptlogd.wire.errors import BadMessage, ProtocolError, WireError
from promptlogd.wire.framing import MAX_FRAME_BYTES, Encoding, FrameDecoder, encode_frame
from promptlogd.wire.requests import INLINE_BYTES, TextBounds, oversize, read_request
from promptlogd.wire.session import ClientSession, ServerSession, Unread
from promptlogd.wire.texts import Encoded, Part, encode_text

__all__ = [
    "INLINE_BYTES",
    "MAX_FRAME_BYTES",
    "BadMessage",
    "ClientSession",
    "Encoded",
    "Encoding",
    "FrameDecoder",
    "Part",
    "ProtocolError",
    "ServerSession",
    "TextBounds",
    "Unread",
    "WireError",
    "encode_frame",
    "encode_text",
    "oversize",
    "read_request",
]
