"""Checks TypeScript with its types removed: it must equal the program's text, with white space in place of types.

The text comes from a jailed process that parsed a hostile program. Such a process can blank out any part of the
program, for example comment markers or quotes. It can add only white space and semicolons.
"""

from __future__ import annotations

import trio

_SLICE_BYTES = 64 * 1024
"""Size of a slice, which takes 0.8 ms to compare. Other tasks run between two slices."""

_SPACES = (b"\xc2\xa0", b"\xe2\x80\x82", b"\xef\xbb\xbf")
"""White space of two and three bytes. Deno's parser replaces characters of these sizes with it."""

_MUST_MATCH = bytes(0 if byte in b" ;" else 0xFF for byte in range(256))
_LINE_END = bytes(0xFF if byte in b"\n\r" else 0 for byte in range(256))


async def is_stripped(source: bytes, text: bytes) -> bool:
    """Whether `text` is UTF-8, and `source` with some bytes replaced by white space or semicolons.

    Line feeds and carriage returns must be at the same positions in both.
    """
    if len(text) != len(source):
        return False
    start = 0
    while start < len(text):
        end = _boundary(text, min(start + _SLICE_BYTES, len(text)))
        if not _matches(source[start:end], text[start:end]):
            return False
        start = end
        await trio.lowlevel.checkpoint()
    return True


def _boundary(text: bytes, at: int) -> int:
    """Return the start of the character that this byte belongs to."""
    while at < len(text) and text[at] & 0xC0 == 0x80:
        at -= 1
    return at


def _matches(source: bytes, text: bytes) -> bool:
    """Compare two texts of the same size, all bytes at once, as integers."""
    try:
        text.decode()
    except UnicodeDecodeError:  # a part of a character was blanked out
        return False
    for space in _SPACES:
        text = text.replace(space, b" " * len(space))
    must_match = int.from_bytes(text.translate(_MUST_MATCH), "little")
    must_match |= int.from_bytes(source.translate(_LINE_END), "little")
    differs = int.from_bytes(source, "little") ^ int.from_bytes(text, "little")
    return not differs & must_match
