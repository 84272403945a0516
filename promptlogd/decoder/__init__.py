"""The decoder: a process beside the daemon that parses large requests and results, to keep the loop responsive."""

from promptlogd.decoder.decoder import Decoder, DecoderFailed

__all__ = ["Decoder", "DecoderFailed"]
