"""Coverage-guided fuzzing of the parsers of hostile bytes, without I/O: `make fuzz-guided` (RUNS=2000000).

    python -m tests.fuzz.guided [-runs=N] [-max_total_time=SECONDS] [other options of libFuzzer]

The first byte of an input chooses the parser, and the second one where the rest is cut in two. The parsers are the
daemon's session, a client's session, and the reader of a child's output. The result must not depend on the cut, and
only the parser's own error may be raised. Seeds are valid messages of both encodings and valid outputs of a child. An
input that fails is written to `crash-*` in the current folder. Pass its path as the argument to run it again.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import atheris
import msgspec

with atheris.instrument_imports(include=["promptlogd.wire", "sandbox.protocol", "sandbox.engines.host"]):
    from promptlogd.wire import ClientSession, ProtocolError, ServerSession
    from sandbox.engines.host.columns import Text
    from sandbox.engines.host.console import Console
    from sandbox.engines.host.outcomes import Reader
    from sandbox.engines.quickjs.host import stack
    from sandbox.protocol.events import Log
    from sandbox.protocol.frames import Caps, Decoder, Malformed, Task
    from sandbox.protocol.machine import Machine, State

from promptlogd.wire.messages import Finished, Pong
from sandbox.limits import Limits
from sandbox.outcome import Ok, Usage
from tests.fuzz.fuzz import VALID

_CORPUS = "PROMPTLOG_GUIDED_CORPUS"
_LIMITS = Limits(cpu_ms=50, wall_ms=1000, memory_bytes=128 << 20, result_bytes=4096, log_bytes=1024)


def _server(parts: list[bytes]) -> Any:
    session = ServerSession()
    events: list[Any] = []
    for part in parts:
        events += session.receive(part)
        if events and isinstance(events[-1], ProtocolError):
            return [*map(_plain, events[:-1]), str(events[-1].code)]
    return [*map(_plain, events), session.mid_frame]


def _client(encoding: Any) -> Callable[[list[bytes]], Any]:
    def read(parts: list[bytes]) -> Any:
        session = ClientSession(encoding=encoding)
        try:
            return [_plain(reply) for part in parts for reply in session.receive(part)], session.mid_frame
        except ProtocolError:
            return "refused"

    return read


def _child(task: Task) -> Callable[[list[bytes]], Any]:
    def read(parts: list[bytes]) -> Any:
        text = Text("eins\n\u00e9\U0001f600 zwei\n".encode())
        caps = Caps(task=task, result_bytes=_LIMITS.result_bytes, log_bytes=_LIMITS.log_bytes, artifact_bytes=8192)
        decoder, machine = Decoder(caps), Machine(State.RUNNING)
        console = Console(_LIMITS, stack, "program.js", text)
        try:
            messages = []
            for part in parts:
                messages += decoder.feed(part)
                while decoder.backlog:
                    messages += decoder.feed(b"")
        except Malformed:
            return "refused"
        states = [machine.receive(message) for message in messages]
        lines = [_plain(console.line(message)) for message in messages if isinstance(message, Log)]
        assert sum(len(line) for line in lines) < 8 * _LIMITS.log_bytes
        last = machine.last
        said = None if last is None else _plain(Reader(_LIMITS, stack, "program.js", text).outcome(last, 0))
        return lines, said, states, console.truncated

    return read


def _plain(record: Any) -> str:
    if isinstance(record, msgspec.Raw):
        return repr(bytes(record))
    if isinstance(record, msgspec.Struct):
        fields = {name: _plain(getattr(record, name)) for name in record.__struct_fields__}
        return f"{type(record).__name__}{fields}"
    return repr(record)


_READERS = [_server, _client("json"), _client("msgpack"), _child(Task.RUN), _child(Task.CHECK)]


def one_input(data: bytes) -> None:
    """Parse an input whole and in two parts, and check that the results are equal."""
    if len(data) < 2:
        return
    read = _READERS[data[0] % len(_READERS)]
    stream = data[2:]
    cut = data[1] * len(stream) // 255
    whole, in_two = read([stream]), read([stream[:cut], stream[cut:]])
    assert whole == in_two, (whole, in_two)


def seeds() -> list[bytes]:
    """Return valid inputs for each parser."""
    found: list[bytes] = []
    for encoding in ("json", "msgpack"):
        client = ClientSession(encoding=encoding)
        requests = [client.send(request) for request in VALID]
        found += [b"\0\x80" + request for request in (*requests, b"".join(requests))]
        server = ServerSession()
        server.receive(requests[0])
        usage = Usage(cpu_ms=1.0, wall_ms=2.0, peak_memory_bytes=3)
        for reply in (
            Pong(id=1, version="1", protocol=1, pid=2),
            Finished(
                id=2, hash="0" * 64, outcome=Ok(value=msgspec.Raw(b"[1]")), logs=[], logs_truncated=False, usage=usage
            ),
        ):
            found.append(bytes((1 if encoding == "json" else 2, 128)) + b"".join(server.send(reply)))
    fields = b"".join(len(text).to_bytes(4, "big") + text for text in (b"TypeError", b"no", b"    at f (program:1:2)"))
    refused = b"M" + b"".join(len(text).to_bytes(4, "big") + text for text in (b"no", b"    at f (check\0\0:1:2)"))
    for kind, payload in (
        (b"v", b'{"a":[1,"\\ud83d\\ude00"]}'),
        (b"l", b"1text"),
        (b"o", b"5000"),
        (b"b", b"no JSON"),
        (b"f", b"Bcode"),
        (b"x", fields),
        (b"m", b""),
        (b"s", refused),
        (b"q", refused),
        (b"c", bytes(4) + fields[:17]),
        (b"w", bytes(8)),
    ):
        frame = kind + len(payload).to_bytes(4, "big") + payload
        found += [b"\3\x80" + frame, b"\4\x80" + frame, b"\3\x40" + b"l\0\0\0\x021a" + frame]
    return found


def main() -> int:
    """Fuzz in a child process, which libFuzzer ends. Return its exit code, which is 0 if no input failed."""
    if _CORPUS in os.environ:
        atheris.Setup(sys.argv, one_input)
        atheris.Fuzz()
    with tempfile.TemporaryDirectory(prefix="promptlog-guided-") as corpus:
        for number, seed in enumerate(seeds()):
            (Path(corpus) / f"{number:03}").write_bytes(seed)
        arguments = sys.argv[1:]
        if all(argument.startswith("-") for argument in arguments):
            arguments += ["-max_len=4096", "-print_final_stats=1", corpus]
        command = [sys.executable, "-m", "tests.fuzz.guided", *arguments]
        return subprocess.run(command, env={**os.environ, _CORPUS: corpus}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
