"""The decoder: a process beside the daemon that reads large requests and large results, to keep the loop free."""

from promptlogd.decoder.decoder import Decoder, DecoderFailed

__all__ = ["Decoder", "DecoderFailed"]
