"""How a child reads the bytes of its job. The test runs the cell's executable without a jail."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import subprocess
from collections.abc import Iterator

import pytest

from sandbox.cells.job import Job
from sandbox.engines.quickjs.host.job import frame
from sandbox.engines.quickjs.host.root import cell
from sandbox.engines.quickjs.host.wrapper import BRACKETS
from sandbox.limits import Limits
from sandbox.program import Artifact, Form
from sandbox.protocol.frames import Task

_BROKEN = 70
"""Value of EXIT_BROKEN in cell.h."""


def _no_new_privileges() -> None:
    ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)  # without this, an ordinary user cannot install a filter (seccomp(2))


class _Zygote:
    """A zygote without a jail."""

    def __init__(self) -> None:
        self.data, data = socket.socketpair()
        self.control, control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with data, control:
            command = [str(cell()), "1000", str(128 << 20)]
            self.process = subprocess.Popen(
                command, stdin=data.fileno(), stdout=control.fileno(), preexec_fn=_no_new_privileges
            )
        for end in (self.data, self.control):
            end.settimeout(20)
        assert self.control.recv(64) == b"R"

    def ended(self) -> tuple[bytes, int]:
        """Return whether the child has read everything (E) or not (U), and its exit code."""
        report = self.control.recv(64)
        return report[:1], os.waitstatus_to_exitcode(struct.unpack_from("<i", report, 4)[0])

    def close(self) -> None:
        """End the zygote."""
        self.control.close()
        self.data.close()
        assert self.process.wait(20) == 0


@pytest.fixture
def zygote() -> Iterator[_Zygote]:
    """A zygote whose first child waits for its job."""
    made = _Zygote()
    yield made
    made.close()


def _frame(payload: bytes) -> bytes:
    return b"j" + struct.pack(">I", len(payload)) + payload


def _fields(kind: bytes, *fields: bytes, numbers: tuple[int, ...] = (0,) * 6) -> bytes:
    return kind + struct.pack(">11I", *numbers, *map(len, fields)) + b"".join(fields)


_CHECK = _fields(b"C", b"return 1", b"", b"", b"", BRACKETS.encode())
_FORM_BODY = b"f\0\0\0\1B"


def test_a_job_may_arrive_in_single_bytes(zygote: _Zygote) -> None:
    """The child waits for all bytes of a frame, however they arrive."""
    zygote.data.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    for byte in _frame(_CHECK):
        zygote.data.send(bytes((byte,)))
    assert zygote.data.recv(64) == _FORM_BODY
    assert zygote.ended() == (b"E", 0)


@pytest.mark.parametrize("more", [b"", b" " * 12_000, b" " * 20_000, b" " * 3_000_000], ids=len)
def test_a_job_of_any_size_is_read(zygote: _Zygote, more: bytes) -> None:
    """The child also reads a job that is larger than its buffer for usual jobs."""
    zygote.data.sendall(_frame(_fields(b"C", b"return 1" + more, b"", b"", b"", BRACKETS.encode())))
    assert zygote.data.recv(64) == _FORM_BODY
    assert zygote.ended() == (b"E", 0)


@pytest.mark.parametrize(
    "bytes_",
    [
        b"x" + _frame(_CHECK)[1:],
        _frame(b""),
        _frame(b"\0"),
        _frame(b"x"),
        _frame(b"C"),
        _frame(_CHECK[:20]),
        _frame(_CHECK[:40]),
        _frame(_CHECK[:-1]),
        _frame(_CHECK + b"x"),
        _frame(b"C" + b"\xff" * 44),
        _frame(b"C" + b"\0" * 24 + b"\0\0\0\1" + b"\0" * 16),
        _frame(_fields(b"C", b"return 1", b"", b"", b"", b"")),
        _frame(_fields(b"C", b"return 1", b"", b"", b"", BRACKETS.encode() + b"\0")),
        _frame(_fields(b"C", b"return 1", b"", b"", b"", BRACKETS.replace("\0", "", 1).encode())),
        _frame(_fields(b"L", b"1", b"", b"", b"", b"(")),
        b"j\xff\xff\xff\xff",
        _frame(_CHECK) + b"x",
    ],
)
def test_an_invalid_job_ends_the_child(zygote: _Zygote, bytes_: bytes) -> None:
    """An invalid job is not evaluated, and the next child starts."""
    zygote.data.sendall(bytes_)
    assert zygote.ended() == (b"E", _BROKEN)
    zygote.data.sendall(_frame(_CHECK))
    assert zygote.data.recv(64) == _FORM_BODY


def test_a_child_whose_socket_is_closed_exits(zygote: _Zygote) -> None:
    """A child exits when its socket is closed."""
    zygote.data.shutdown(socket.SHUT_WR)
    assert zygote.ended()[1] == 0


def test_each_job_has_its_own_seed() -> None:
    """No two of many jobs have the same seed, although the seeds of many are read from the kernel at once."""
    artifact = Artifact(form=Form.BODY, language="javascript", code=b"")
    job = Job(task=Task.RUN, source=b"return 1", artifact=artifact, limits=Limits())
    seeds = {b"".join(frame(job))[14:26] for _ in range(1000)}  # after the frame's header, the kind and two limits
    assert len(seeds) == 1000
