"""The limits of one run: a plain record. What holds each of them is the jail's and the cell's business."""

from __future__ import annotations

import msgspec

MIB = 1024 * 1024


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one run may use at the most.

    The defaults: 128 MiB of address space, 50 ms of CPU time, 1 s of wall time,
    a result of 1 MiB and logs of 64 KiB (both counted in UTF-8 bytes). The wire embeds this record as it is.
    """

    cpu_ms: int = 50
    wall_ms: int = 1000
    memory_bytes: int = 128 * MIB
    result_bytes: int = MIB
    log_bytes: int = 64 * 1024
