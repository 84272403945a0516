"""Messages between the daemon and a zygote on the control socket: see the start of the jail's zygote.c. Pure."""

from __future__ import annotations

import struct

from sandbox.engines.quickjs.host.verdict import Report
from sandbox.limits import Limits

READY = b"R"
"""Sent by the zygote when the first blank child is ready."""

REPORT_BYTES = 64
"""Buffer size for any message of a zygote."""

_REPORT = struct.Struct("<4sIqqqqq")
"""E or U, the wait status, user time (s, us), system time (s, us), the largest resident size (KiB)."""

_READ, _UNREAD = b"E\0\0\0", b"U\0\0\0"

_KILL = struct.Struct(">cI")
_LIMITS = struct.Struct(">cIIQ")


def read_report(message: bytes) -> Report | None:
    """Return the report of a child's end. None if the message is not a report; it is empty if the zygote has ended."""
    if len(message) != _REPORT.size or message[:4] not in (_READ, _UNREAD):
        return None
    kind, status, user_s, user_us, system_s, system_us, maxrss_kib = _REPORT.unpack(message)
    cpu_ms = (user_s + system_s) * 1000 + (user_us + system_us) / 1000
    return Report(status=status, cpu_ms=cpu_ms, peak_memory_bytes=maxrss_kib * 1024, unread=kind == _UNREAD)


def kill_message(child: int) -> bytes:
    """Return the message that kills the child with this number. Children are numbered, so a late message hits no
    other."""
    return _KILL.pack(b"K", child)


def limits_message(child: int, limits: Limits) -> bytes:
    """Return the message that kills a blank child, and sets these limits for the next one."""
    return _LIMITS.pack(b"L", child, limits.cpu_ms, limits.memory_bytes)
