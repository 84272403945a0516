"""Console lines of one run: levels, the cap, and stacks that refer to the program."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from promptlogd.wire import MAX_FRAME_BYTES, ClientSession, ServerSession
from promptlogd.wire.messages import Finished, Ping
from sandbox.engines.deno.host import stack as deno
from sandbox.engines.host.columns import Text
from sandbox.engines.host.console import Console, Stacks
from sandbox.engines.quickjs.host import stack as quickjs
from sandbox.limits import Limits
from sandbox.outcome import LogLevel, LogLine, Ok, Usage
from sandbox.protocol.events import Log
from sandbox.protocol.frames import LINE_BYTES, LINE_TEXT_BYTES, Caps, Decoder, Malformed, Task


def _console(source: str = "", stacks: Stacks = quickjs, **limits: Any) -> Console:
    return Console(Limits(**limits), stacks, "p.js", Text(source.encode()))


def _log(text: bytes, *, level: int = 1, mapping: int = 0) -> Log:
    return Log(level=level, mapping=mapping, text=text)


def _lines(console: Console, texts: list[bytes]) -> list[str]:
    return [line.text for text in texts if (line := console.line(_log(text))) is not None]


def test_each_level_has_its_name() -> None:
    """The five levels are debug, log, info, warn and error, in this order."""
    names = ("debug", "log", "info", "warn", "error")
    assert get_args(LogLevel) == names
    console = _console()
    lines = [console.line(_log(b"x", level=level)) for level in range(5)]
    assert lines == [LogLine(level=name, text="x") for name in names]  # type: ignore[arg-type]


def test_the_log_has_a_cap() -> None:
    """Lines beyond the cap are dropped, the line that crosses it is truncated, and this is reported."""
    console = _console(log_bytes=100)
    # Each line counts its text plus 16 bytes.
    assert _lines(console, [b"x" * 30] * 2) == ["x" * 30] * 2
    assert not console.truncated
    assert _lines(console, [b"x" * 30] * 48) == ["x" * 8]
    assert console.truncated


def test_a_line_as_large_as_the_cap_is_complete() -> None:
    """A line that fills the cap is kept; one with a byte more is truncated."""
    whole, cut = _console(log_bytes=100), _console(log_bytes=100)
    assert _lines(whole, [b"x" * 100]) == ["x" * 100]
    assert not whole.truncated
    assert _lines(cut, [b"x" * 101]) == ["x" * 100]
    assert cut.truncated


def test_empty_lines_count_towards_the_cap() -> None:
    """Each empty line counts 16 bytes, so a flood of them ends."""
    console = _console(log_bytes=100)
    assert _lines(console, [b""] * 50) == [""] * 7
    assert console.truncated


def test_a_cap_of_zero_reports_dropped_lines() -> None:
    """With a cap of zero, every line is dropped, and this is reported."""
    console = _console(log_bytes=0)
    assert not console.truncated
    assert console.line(_log(b"x")) is None
    assert console.truncated


@pytest.mark.parametrize("character", ["x", "é", "漢", "\U0001f600"])
def test_one_line_has_its_own_limit(character: str) -> None:
    """A line above LINE_TEXT_BYTES is truncated, which is reported, and later lines are kept."""
    fits = character * (LINE_TEXT_BYTES // len(character.encode()))
    console = _console(log_bytes=1 << 20)
    assert _lines(console, [fits.encode()]) == [fits]
    assert not console.truncated
    assert _lines(console, [(fits + character).encode(), b"next"]) == [fits, "next"]
    assert console.truncated


def test_a_line_of_the_default_limit_is_complete() -> None:
    """The limits of one line neither truncate a line of the default log limit nor keep its stack from being mapped."""
    line = b"x" * Limits().log_bytes
    console = _console()
    assert _lines(console, [line]) == [line.decode()]
    assert not console.truncated
    frame, mapped = b"\n    at f (eval_script:3:7)", "\n    at f (p.js:2:7)"
    line = line[: -len(frame)]
    assert _lines(_console("a\n  b.c()"), [line + frame]) == [line.decode() + mapped]


def test_truncation_keeps_characters_complete() -> None:
    """A line is truncated between characters, and its size counts bytes of UTF-8."""
    assert _lines(_console(log_bytes=8), ["é漢\U0001f600".encode()]) == ["é漢"]
    assert _lines(_console(log_bytes=9), ["é漢\U0001f600".encode()]) == ["é漢\U0001f600"]


@given(st.integers(0, 300), st.lists(st.binary(max_size=60), max_size=40))
def test_any_bytes_become_text_within_the_cap(log_bytes: int, texts: list[bytes]) -> None:
    """Whatever bytes a process logs, the result is text, within the cap, in the same order."""
    console = _console(log_bytes=log_bytes)
    lines = _lines(console, texts)
    assert sum(len(line.encode()) for line in lines) <= log_bytes
    assert len(lines) <= log_bytes // LINE_BYTES + 1
    assert console.truncated or len(lines) == len(texts)


@given(st.lists(st.binary(max_size=40), max_size=8))
def test_hostile_bytes_give_lines_within_the_cap(parts: list[bytes]) -> None:
    """Any bytes of a process, decoded and collected, give lines within its cap."""
    console, decoder = (
        _console(log_bytes=50),
        Decoder(Caps(task=Task.RUN, result_bytes=10, log_bytes=50, mappings=quickjs.MAPPINGS)),
    )
    logs: list[Log] = []
    try:
        for part in parts:
            logs += [message for message in decoder.feed(part + b"l\0\0\0\x021x") if isinstance(message, Log)]
    except Malformed:
        pass
    assert sum(map(len, _lines(console, [log.text for log in logs]))) <= 50


_QUICKJS_LINE = b"Error: m\n    at f (eval_script:3:7)\n    at ok (promptlog:prelude:1:1)"


def test_stacks_in_lines_refer_to_the_program() -> None:
    """A stack in a console line refers to the program, and the cap counts the mapped text."""
    console = _console("a\n  b.c()")
    assert _lines(console, [_QUICKJS_LINE]) == ["Error: m\n    at f (p.js:2:7)"]
    shown = len("Error: m\n    at f (p.js:2:7)")
    whole = _console("a\n  b.c()", log_bytes=shown)
    assert _lines(whole, [_QUICKJS_LINE]) == ["Error: m\n    at f (p.js:2:7)"]
    assert not whole.truncated


def test_a_line_without_a_stack_is_not_changed() -> None:
    """A text like a frame that is not on a separate line stays as the program wrote it."""
    text = b"    at f (eval_script:3:7)"
    assert _lines(_console("a\nb"), [text]) == [text.decode()]


@pytest.mark.parametrize(
    ("frame", "mapping", "place"),
    [
        ("program.js, <anonymous>:5:3", 0, "2:3"),
        ("program:module:2:3", 0, "2:3"),
        ("program:module:3:3", 1, "2:3"),
        ("program:module:2:3", 2, "2:3"),
    ],
)
def test_stacks_of_deno_have_mappings(frame: str, mapping: int, place: str) -> None:
    """A line's mapping says how to count lines: after three lines of wrapper, unchanged, or plus one."""
    console = _console("a\n  b\n", stacks=deno)
    line = console.line(_log(f"E: m\n    at f ({frame})".encode(), mapping=mapping))
    assert line == LogLine(level="log", text=f"E: m\n    at f (p.js:{place})")


def test_mapping_has_a_limit() -> None:
    """After 160 lines of text with stacks, further stacks stay as the engine wrote them, because mapping costs time."""
    console = _console("a\n  b.c()", log_bytes=1 << 30)
    line = _QUICKJS_LINE + b"\n" * 50
    lines = _lines(console, [line] * 8)
    mapped = ["(p.js:2:7)" in line for line in lines]
    assert mapped == [True] * 3 + [False] * 5


@pytest.mark.parametrize(("stacks", "frame"), [(quickjs, "program:1:1"), (deno, "program:module:1:1")])
def test_the_search_for_frames_has_a_limit(stacks: Stacks, frame: str) -> None:
    """A frame is mapped to the program, but not after 65,000 line feeds, in a console line or in a stack."""
    for line_feeds, place in ((5, "p.js:1:1"), (65_000, frame)):
        text = "E" + "\n" * line_feeds + f"    at f ({frame})"
        line = _console("a", log_bytes=1 << 20, stacks=stacks).line(_log(text.encode()))
        assert line is not None
        assert line.text.endswith(f"    at f ({place})")
        own, *_ = stacks.shown("0\n" + text, "p.js", Text(b"a"))
        assert own.endswith(f"    at f ({place})")


@pytest.mark.parametrize(
    ("texts", "kept"),
    [
        ([b"x" * 1000] * 1000, 1000),
        ([b'{"a": 1}' * 100] * 1200, 854),
        ([b"\n" * 1000] * 1000, 208),
        ([b"\0" * 1000] * 1000, 125),
        ([b"\0" * (1 << 20)], 1),
        ([b"x"] * 60_000, 32_768),
        ([b""] * 60_000, 32_768),
        ([b"\n" * 4] * 60_000, 22_469),
        (["\U0001f600".encode() * 250] * 1000, 1000),
    ],
)
@pytest.mark.parametrize("encoding", ["json", "msgpack"])
def test_all_lines_fit_into_a_frame(encoding: Any, texts: list[bytes], kept: int) -> None:
    """The lines of a run and the largest result fit into one frame in both encodings.

    Lines that do not fit are truncated or dropped, and this is reported.
    """
    console = _console(log_bytes=1 << 20)
    lines = [line for text in texts if (line := console.line(_log(text))) is not None]
    assert kept <= len(lines) <= kept + 1
    assert console.truncated == (lines[-1].text.encode() != texts[-1] or len(lines) < len(texts))
    server = ServerSession()
    server.receive(ClientSession(encoding=encoding).send(Ping(id=1)))
    usage = Usage(cpu_ms=1e9, wall_ms=1e9, peak_memory_bytes=1 << 40)
    value = b'"' + b"x" * ((4 << 20) - 2) + b'"'
    finished = Finished(id=1, hash="0" * 64, outcome=Ok(value=Raw(value)), logs=lines, logs_truncated=True, usage=usage)
    data = b"".join(server.send(finished))
    assert (4 << 20) < len(data) <= MAX_FRAME_BYTES
    (reply,) = ClientSession(encoding=encoding).receive(data)
    assert isinstance(reply, Finished)
    assert reply.logs == lines


def test_a_line_is_truncated_where_it_no_longer_fits() -> None:
    """If a line has JSON text and then control characters, the text and some of the control characters are kept.

    Later lines are dropped.
    """
    before, text = b"\0" * LINE_TEXT_BYTES, b'{"a": 1}' * 8192
    console = _console(log_bytes=1 << 20)
    _, cut, *others = _lines(console, [before, text + b"\0" * (1 << 15), b"x"])
    assert cut.startswith(text.decode())
    assert len(text) < len(cut) < len(text) + (1 << 15)
    assert not others
    assert console.truncated
