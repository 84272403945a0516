"""The protocol: messages, framing, errors. No trio, no sockets, no clock: bytes in, messages out."""

from promptlogd.wire.errors import BadMessage, ProtocolError, WireError
from promptlogd.wire.framing import MAX_FRAME_BYTES, Encoding, FrameDecoder, encode_frame
from promptlogd.wire.session import ClientSession, ServerSession
from promptlogd.wire.texts import encode_text

__all__ = [
    "MAX_FRAME_BYTES",
    "BadMessage",
    "ClientSession",
    "Encoding",
    "FrameDecoder",
    "ProtocolError",
    "ServerSession",
    "WireError",
    "encode_frame",
    "encode_text",
]
