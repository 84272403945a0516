"""Parses the program headers and the dynamic section of an ELF file (elf(5))."""

from __future__ import annotations

import struct
from dataclasses import dataclass

ET_DYN = 3
PT_LOAD, PT_DYNAMIC, PT_INTERP = 1, 2, 3
PT_GNU_STACK, PT_GNU_RELRO = 0x6474E551, 0x6474E552
PF_X, PF_W = 1, 2
DT_NEEDED, DT_FLAGS, DT_FLAGS_1 = 1, 30, 0x6FFFFFFB
DF_BIND_NOW = 0x8
DF_1_NOW, DF_1_PIE = 0x1, 0x08000000
MACHINES = {"x86_64": 62, "aarch64": 183}


@dataclass(frozen=True)
class Segment:
    """One program header."""

    type: int
    flags: int
    offset: int
    file_bytes: int


@dataclass(frozen=True)
class Elf:
    """The headers that tell how a file is loaded."""

    type: int
    machine: int
    segments: list[Segment]
    dynamic: list[tuple[int, int]]


def read(data: bytes) -> Elf:
    """Read a 64-bit little-endian ELF file."""
    assert data[:6] == b"\x7fELF\x02\x01"
    kind, machine = struct.unpack_from("<HH", data, 16)
    (table,) = struct.unpack_from("<Q", data, 32)
    entry_bytes, count = struct.unpack_from("<HH", data, 54)
    segments = []
    for place in range(table, table + count * entry_bytes, entry_bytes):
        type_, flags, offset, _, _, file_bytes, _, _ = struct.unpack_from("<IIQQQQQQ", data, place)
        segments.append(Segment(type_, flags, offset, file_bytes))
    dynamic = []
    for segment in segments:
        if segment.type == PT_DYNAMIC:
            dynamic = list(struct.iter_unpack("<qQ", data[segment.offset : segment.offset + segment.file_bytes]))
    return Elf(kind, machine, segments, dynamic)


def faults(data: bytes, architecture: str) -> list[str]:
    """Return the properties that a static, position-independent, hardened executable must not have."""
    elf = read(data)
    kinds = [segment.type for segment in elf.segments]
    tags = dict(elf.dynamic)
    flags_1 = tags.get(DT_FLAGS_1, 0)
    writable, executable, both = [
        any(segment.flags & flags == flags for segment in elf.segments if segment.type == PT_LOAD)
        for flags in (PF_W, PF_X, PF_W | PF_X)
    ]
    checks = {
        "another machine's": elf.machine != MACHINES[architecture],
        "position-dependent": elf.type != ET_DYN or not flags_1 & DF_1_PIE,
        "dynamic": PT_INTERP in kinds or DT_NEEDED in tags,
        "no read-only relocations": PT_GNU_RELRO not in kinds,
        "lazy binding": not tags.get(DT_FLAGS, 0) & DF_BIND_NOW or not flags_1 & DF_1_NOW,
        "executable stack": not any(s.type == PT_GNU_STACK and not s.flags & PF_X for s in elf.segments),
        "writable and executable memory": both,
        "no code or no data": not (writable and executable),
    }
    return [fault for fault, found in checks.items() if found]
