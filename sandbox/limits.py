"""The limits of one run: a plain record. The jail and the cell enforce them."""

from __future__ import annotations

import msgspec

MIB = 1024 * 1024


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """The maximum resources of one run.

    The defaults: 128 MiB of address space, 50 ms of CPU time, 1 s of wall time,
    a result of 1 MiB and logs of 64 KiB (both counted in UTF-8 bytes; each line counts 16 bytes more).
    The wire embeds this record as it is.
    """

    cpu_ms: int = 50
    wall_ms: int = 1000
    memory_bytes: int = 128 * MIB
    result_bytes: int = MIB
    log_bytes: int = 64 * 1024
