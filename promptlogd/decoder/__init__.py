"""Reads what would hold the daemon's loop for too long, in a process beside it: large requests and large results."""

from promptlogd.decoder.decoder import Decoder, DecoderFailed

__all__ = ["Decoder", "DecoderFailed"]
