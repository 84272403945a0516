"""The second seccomp filter, which a child installs before it reads a user byte. Pure: no system calls. The build
embeds it in the cell (cell_build/embedded.py).

The filter is classic BPF. Each block ends with its own verdict, so that no jump leaves its block, and a wrong jump
cannot reach another block's ALLOW. A system call that is not listed ends the process with SIGSYS
(SECCOMP_RET_KILL_PROCESS). Sources: seccomp(2), linux/filter.h, linux/audit.h, the kernel's syscall tables.
"""

from __future__ import annotations

from typing import Literal

Machine = Literal["x86_64", "aarch64"]

DATA_FD = 0
"""The only descriptor that a child keeps: its end of the data socket."""

_ALLOW = 0x7FFF0000
_KILL_PROCESS = 0x80000000

_LD_ABS, _JEQ, _JGE, _JSET, _RET = 0x20, 0x15, 0x35, 0x45, 0x06
_OFFSET_NR, _OFFSET_ARCH, _OFFSET_ARGS = 0, 4, 16
_PROT_EXEC = 4
_X32_BIT = 0x40000000

AUDIT_ARCH: dict[Machine, int] = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

SYSCALLS: dict[Machine, dict[str, int]] = {
    "x86_64": {
        "read": 0, "write": 1, "mmap": 9, "munmap": 11, "mremap": 25,
        "exit_group": 231, "clock_gettime": 228, "gettimeofday": 96,
    },
    "aarch64": {
        "read": 63, "write": 64, "mmap": 222, "munmap": 215, "mremap": 216,
        "exit_group": 94, "clock_gettime": 113, "gettimeofday": 169,
    },
}  # fmt: skip
"""System calls that a child may use: read and write only on DATA_FD, mmap only without PROT_EXEC.

The vDSO usually reads clocks without a system call. futex is not needed, because a child has one thread. A futex on a
page of the executable, which jails share, would be a covert channel.
"""

_ON_DATA_FD = ("read", "write")
_NOT_EXECUTABLE = ("mmap",)

Instruction = tuple[int, int, int, int]


def _argument(index: int, *, high: bool) -> Instruction:
    # struct seccomp_data holds 64-bit arguments in native order; both machines are little-endian.
    return (_LD_ABS, 0, 0, _OFFSET_ARGS + 8 * index + (4 if high else 0))


def instructions(machine: Machine) -> list[Instruction]:
    """Return the filter as (code, jump if true, jump if false, k) of struct sock_filter."""
    program: list[Instruction] = [
        (_LD_ABS, 0, 0, _OFFSET_ARCH),
        (_JEQ, 1, 0, AUDIT_ARCH[machine]),
        (_RET, 0, 0, _KILL_PROCESS),
        (_LD_ABS, 0, 0, _OFFSET_NR),
        (_JGE, 0, 1, _X32_BIT),
        (_RET, 0, 0, _KILL_PROCESS),
    ]
    for name, number in SYSCALLS[machine].items():
        match name:
            case _ if name in _ON_DATA_FD:
                block = [
                    _argument(0, high=True), (_JEQ, 0, 3, 0),
                    _argument(0, high=False), (_JEQ, 0, 1, DATA_FD), (_RET, 0, 0, _ALLOW),
                    (_RET, 0, 0, _KILL_PROCESS),
                ]  # fmt: skip
            case _ if name in _NOT_EXECUTABLE:
                block = [
                    _argument(2, high=False), (_JSET, 1, 0, _PROT_EXEC), (_RET, 0, 0, _ALLOW),
                    (_RET, 0, 0, _KILL_PROCESS),
                ]  # fmt: skip
            case _:
                block = [(_RET, 0, 0, _ALLOW)]
        # The accumulator still has the number here, because a block is left only by a verdict.
        program += [(_JEQ, 0, len(block), number), *block]
    program.append((_RET, 0, 0, _KILL_PROCESS))
    return program
