"""The limits of one run: a plain record. The jail and the cell enforce them."""

from __future__ import annotations

import msgspec

MIB = 1024 * 1024


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """The maximum resources of one run.

    The defaults are 128 MiB of memory, 50 ms of CPU time, 1 s of wall time, a result of 1 MiB, and console lines of 64
    KiB. Results and lines are counted in bytes of UTF-8. Each line counts 16 bytes more.
    """

    cpu_ms: int = 50
    wall_ms: int = 1000
    memory_bytes: int = 128 * MIB
    result_bytes: int = MIB
    log_bytes: int = 64 * 1024
