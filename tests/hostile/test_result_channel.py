"""Output of a child that was taken over cannot change status, usage, another run, or the daemon's memory."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from promptlogctl.client import Client, LimitsAsked, RunResult
from sandbox.engines.host.console import MOST_LINES
from sandbox.limits import Limits
from sandbox.outcome import CpuLimit, Crashed, LogLine, MemoryLimit, Ok, ProgramException, WallLimit
from sandbox.protocol.frames import LINE_BYTES

from .test_second_line import taken_over

MIB = 1 << 20


@pytest.fixture(scope="module")
def inside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A client of a daemon whose children can be taken over."""
    with taken_over(tmp_path_factory.mktemp("channel")) as client:
        yield client


def _frame(kind: bytes, payload: bytes) -> bytes:
    return kind + len(payload).to_bytes(4, "big") + payload


def _fields(*fields: bytes) -> bytes:
    return b"".join(len(field).to_bytes(4, "big") + field for field in fields)


def _write(client: Client, data: bytes, how: str = "W", code: int | str = "", **limits: int) -> RunResult:
    return client.run_source(f"//TAKEOVER {how} {data.hex()} {code}\n", limits=LimitsAsked(**limits))


_GOOD = _frame(b"v", b"1")
_NO_WORD = "the engine ended without a message"
_UNKNOWN = "no known kind, "


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", _NO_WORD),
        (_GOOD[:-1], _NO_WORD),
        (_GOOD[:4], _NO_WORD),
        (b"\n" + _GOOD, _UNKNOWN + r"'\n'"),
        (_frame(b"v", b"") + _GOOD, "not JSON"),
        (_frame(b"v", b'1},"usage":{"cpu_ms":0},"x":{"a":1') + _GOOD, "not JSON"),
        (_frame(b"v", b"1 2") + _GOOD, "not JSON"),
        (_frame(b"v", b'"\xff"') + _GOOD, "not JSON"),
        (_frame(b"v", b'{"a":1}\n{"type":"finished"}') + _GOOD, "a value with a line break"),
        (_GOOD[:-1] + _GOOD, "not JSON"),
        (_frame(b"E", bytes(44)) + _GOOD, _UNKNOWN + "'E'"),
        (_frame(b"z", b"1") + _GOOD, _UNKNOWN + "'z'"),
        (b"R" + _GOOD, _UNKNOWN + "'R'"),
        (b"E" + bytes(44) + _GOOD, _UNKNOWN + "'E'"),
        (_frame(b"l", b"") + _GOOD, "a log line without a level"),
        (_frame(b"l", b"9text") + _GOOD, "a log line without a level"),
        (_frame(b"x", b"\0\0\0\1") + _GOOD, "fields do not fill it"),
        (_frame(b"x", _fields(b"a", b"b")) + _GOOD, "fields do not fill it"),
        (_frame(b"x", (2**32 - 1).to_bytes(4, "big") * 3) + _GOOD, "fields do not fill it"),
        (_frame(b"f", b"B") + _GOOD, _UNKNOWN + "'f'"),
        (_frame(b"w", b"Breturn 1") + _GOOD, "a wait with a wrong size"),
        (_frame(b"w", bytes(8)) + _GOOD, "a message that is not allowed in this state"),
        (_frame(b"c", b"") + _GOOD, "fields do not fill it"),
        (
            b"[I][2026-01-01T00:00:00] Mode: STANDALONE_ONCE\n[I] pid=1 exited with status: 0\n" + _GOOD,
            _UNKNOWN + "'['",
        ),
        (b'{"type":"finished","id":1,"outcome":{"kind":"ok","value":1}}\n' + _GOOD, _UNKNOWN + "'{'"),
        (b"\xff" + random.Random(1).randbytes(1000) + _GOOD, _UNKNOWN),
    ],
    ids=lambda value: repr(value[:24]),
)
def test_forged_frames_are_a_crash(inside: Client, data: bytes, says: str) -> None:
    """A valid frame is the result.

    After forged, truncated or foreign bytes, the run is reported as crashed, with the reason.
    """
    assert _write(inside, _GOOD).value == 1
    result = _write(inside, data)
    assert isinstance(result.outcome, Crashed), result.outcome
    assert says in result.outcome.message
    assert result.logs == []


def test_the_first_result_counts(inside: Client) -> None:
    """The daemon takes the first of two results, and drops everything after it."""
    for rest in (b"", _frame(b"v", b"2"), _frame(b"x", b"junk"), _frame(b"l", b"1late"), b"junk", bytes(30_000)):
        result = _write(inside, _GOOD + rest)
        assert isinstance(result.outcome, Ok), result.outcome
        assert (result.value, result.logs) == (1, [])


def test_status_and_usage_come_from_the_kernel(inside: Client) -> None:
    """A forged result counts if the child exits normally, but not if it continues, hangs, or exits with a status."""
    assert isinstance(_write(inside, _GOOD, "X", 0).outcome, Ok)
    assert isinstance(_write(inside, _GOOD + b"l\0\0\0\0011", "E").outcome, CpuLimit | Crashed)
    assert isinstance(_write(inside, _GOOD, "H", wall_ms=100).outcome, WallLimit)
    assert _write(inside, _GOOD, "X", 3).outcome == Crashed(message="the engine ended with exit code 3")
    assert isinstance(_write(inside, _GOOD, "X", 72).outcome, MemoryLimit)
    result = _write(inside, _GOOD)
    assert result.usage.cpu_ms > 0
    assert result.usage.peak_memory_bytes > MIB


def test_an_incomplete_frame_ends_at_the_wall_limit(inside: Client) -> None:
    """A child that never completes its frame ends at the wall limit, and other runs continue meanwhile."""
    silent = inside.start(None, source=f"//TAKEOVER H {_frame(b'v', b'123')[:6].hex()}\n")
    assert inside.run_source("return 2").value == 2
    result = silent.result(20)
    assert isinstance(result.outcome, WallLimit)
    assert Limits().wall_ms <= result.usage.wall_ms < 3 * Limits().wall_ms


def test_many_lines_within_the_caps_keep_turns_short(inside: Client) -> None:
    """All of the largest permitted number of lines arrive, and no turn of the loop is long."""
    lines = (1 << 20) // LINE_BYTES
    result = _write(inside, _frame(b"l", b"1"), "R", lines, log_bytes=1 << 20, cpu_ms=2000)
    assert result.value == 1
    assert result.logs == [LogLine(level="log", text="")] * MOST_LINES
    assert result.logs_truncated
    result = _write(inside, _frame(b"l", b"1"), "R", lines + 3, log_bytes=1 << 20, cpu_ms=2000)
    assert isinstance(result.outcome, Crashed)
    assert inside.stats().turn_cpu_max_ms < 60  # measured: 4 ms; once 190 ms


@pytest.mark.parametrize(
    ("data", "kinds"),
    [
        (_frame(b"l", b"1" + b"x" * 30000), (Crashed,)),
        (_frame(b"l", b"1"), (Crashed,)),
        (b"v\xff\xff\xff\xff" + bytes(30000), (Crashed,)),
        (b"l\xff\xff\xff\xff" + bytes(30000), (Crashed,)),
        (_frame(b"v", b"1") + bytes(30000), (Crashed,)),
        (bytes(30000), (Crashed,)),
    ],
    ids=["log lines", "empty log lines", "one huge value", "one huge line", "after the result", "zeros"],
)
def test_an_endless_stream(inside: Client, data: bytes, kinds: tuple[type, ...]) -> None:
    """A run that writes without end ends at the CPU limit, or when it exceeds what a process may send.

    The daemon keeps none of the bytes, and continues to serve.
    """
    pid = inside.ping().pid
    _write(inside, data, "E")
    before = _resident(pid)
    pending = [inside.start(None, source=f"//TAKEOVER E {data.hex()}\n") for _ in range(8)]
    assert inside.run_source("return 3").value == 3
    for run in pending:
        result = run.result()
        assert isinstance(result.outcome, kinds), result.outcome
        assert sum(len(line.text) for line in result.logs) <= Limits().log_bytes
    assert _resident(pid) - before < 8 * MIB


def _resident(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) * 1024


def test_a_log_line_that_looks_like_a_reply_is_text(inside: Client) -> None:
    """Log lines are text, whatever they contain; the outcome of the run follows them."""
    text = '{"type":"finished","id":1,"outcome":{"kind":"ok","value":666}}\n[E][1] nsjail: killed'
    result = _write(inside, _frame(b"l", b"4" + text.encode()) + _frame(b"v", b"1"))
    assert result.logs == [LogLine(level="error", text=text)]
    assert result.value == 1


def test_another_run_gets_its_own_reply(inside: Client) -> None:
    """While children that were taken over write anything, every honest run gets its own result."""
    forged = [_frame(b"v", b"666"), _frame(b"l", b"1forged"), bytes(5000), b"E" + bytes(44)]
    hostile = [inside.start(None, source=f"//TAKEOVER W {forged[i % 4].hex()}\n") for i in range(40)]
    honest = [inside.start(None, str(i), source="console.log(prompt); return prompt") for i in range(40)]
    for i, run in enumerate(honest):
        result = run.result()
        assert (result.value, [line.text for line in result.logs]) == (str(i), [str(i)])
    for run in hostile:
        run.result()


def test_a_forged_exception_is_reported_as_text(inside: Client) -> None:
    """A child's report of its program's exception is treated as text; a line number outside the program is left out."""
    result = _write(inside, _frame(b"x", _fields(b"E", b"", b"    at f (eval_script:2:1)")))
    assert isinstance(result.outcome, ProgramException)
    assert (result.outcome.name, result.outcome.line) == ("E", 1)
    result = _write(inside, _frame(b"x", _fields(b"E\x1b[2J", b"\0\xff", b"    at f (eval_script:99999999999:1)")))
    assert isinstance(result.outcome, ProgramException)
    assert (result.outcome.name, result.outcome.line) == ("E\x1b[2J", None)
