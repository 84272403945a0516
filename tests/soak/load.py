"""Shared by the soak and fault tests: a daemon, the load, and an account of every reply."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from msgspec import Raw, json

from promptlogd.wire import ClientSession, ProtocolError
from promptlogd.wire.messages import (
    Cancel,
    Error,
    Finished,
    LimitsAsked,
    Log,
    Ping,
    Remove,
    Reply,
    Request,
    Run,
    Stats,
    Submit,
)
from promptlogd.wire.messages import List as ListRequest
from sandbox.outcome import Crashed, Ok

START_S = 20.0
REPLY_S = 60.0
"""A reply that takes longer is lost."""

KILL_SHADOW_S = 0.5
"""A kill at most this long before a run was sent may have hit it, if the daemon did not yet know of the kill."""

_PATIENT = LimitsAsked(wall_ms=20_000)
"""For programs that must reach the CPU limit before the wall limit, also on a busy host."""

_READ_BYTES = 1 << 18
_ANY = object()


class Daemon:
    """A promptlogd that its owner kills or stops."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.socket = folder / "socket"
        self.state = folder / "state"
        self.log = folder / "log"
        reading, writing = os.pipe()
        with self.log.open("ab") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "promptlogd", "--ready-fd", str(writing), "--exit-with-parent"]
                + ["--socket", str(self.socket), "--state-dir", str(self.state), *options],
                pass_fds=(writing,),
                stdin=subprocess.DEVNULL,
                stderr=stderr,
            )
        os.close(writing)
        with open(reading, "rb") as ready:
            if ready.read() != b"ready\n":
                self.process.wait(START_S)
                raise RuntimeError(f"the daemon did not start: {self.log.read_text()}")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, wait for the end, and return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(START_S)


@dataclass
class Ledger:
    """An account of requests and their outcomes, with one writer. Accounts can be added up."""

    requests: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    abandoned: int = 0
    """Requests whose client left on purpose, or whose daemon was killed, so that no reply is due."""
    hit: list[tuple[float, float, str]] = field(default_factory=list)
    """Outcomes that only a kill explains: when the request was sent, when the reply came, and what it was."""
    lost: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)

    def add(self, other: Ledger) -> None:
        """Add the entries of another account."""
        self.requests += other.requests
        self.outcomes += other.outcomes
        self.abandoned += other.abandoned
        for name in ("hit", "lost", "wrong", "unexpected"):
            getattr(self, name).extend(getattr(other, name))

    def unexplained(self, kills: Sequence[tuple[float, float]]) -> list[str]:
        """Return the outcomes that no kill explains. Each kill explains one outcome in its time."""
        left = sorted(kills)
        found = []
        for sent, told, what in sorted(self.hit, key=lambda entry: entry[1]):
            kill = next((kill for kill in left if sent - KILL_SHADOW_S <= kill[1] and kill[0] <= told), None)
            if kill is None:
                found.append(what)
            else:
                left.remove(kill)
        return found


@dataclass(frozen=True)
class Case:
    """One request and its allowed outcomes. `value` is the result of a run that ends with `ok`."""

    kind: str
    request: Callable[[int], Request]
    outcomes: frozenset[str]
    value: Any = _ANY


def word(reply: Reply) -> str:
    """Return how a request ended: the kind of an outcome, the code of an error, or the type of the reply."""
    match reply:
        case Finished(outcome=outcome):
            return str(outcome.__struct_config__.tag)
        case Error(code=code):
            return f"error {code}"
        case _:
            return str(reply.__struct_config__.tag)


def _by_a_kill(reply: Reply) -> bool:
    match reply:
        case Error(code="internal", message=message):
            checked = message.startswith("the program could not be checked: ") and message.endswith("(SIGKILL)")
            # If two cells in a row are killed while they start, the waiting runs get this error.
            return checked or (" cell did not start: " in message and "printed nothing" in message)
        case Finished(outcome=Crashed(signal="SIGKILL")):
            return True
        case _:
            return False


class Gone(Exception):
    """The daemon closed the connection."""


class Wire:
    """One connection, on which each request must get exactly one final reply."""

    def __init__(self, path: Path, ledger: Ledger, *, as_json: bool = False, mortal: bool = False) -> None:
        """If `mortal` is true, the daemon may be killed. Pending requests then count as abandoned, not as lost."""
        self._ledger = ledger
        self._mortal = mortal
        self._session = ClientSession(encoding="json" if as_json else "msgpack")
        self._next_id = 0
        self._pending: dict[int, tuple[Case, float]] = {}
        self.replies: dict[int, Reply] = {}
        self.socket = socket.socket(socket.AF_UNIX)
        try:
            # No time-out yet: with one, connect(2) fails while an attacker fills the queue of new connections.
            self.socket.connect(os.fspath(path))
            self.socket.settimeout(REPLY_S)
        except OSError as error:
            self.socket.close()
            raise Gone(str(error)) from error

    def send(self, case: Case) -> int:
        """Send one request, and return its id."""
        self._next_id += 1
        id = self._next_id
        self._ledger.requests[case.kind] += 1
        self._pending[id] = (case, time.monotonic())
        try:
            self.socket.sendall(self._session.send(case.request(id)))
        except OSError as error:
            self._give_up(str(error))
            raise Gone(str(error)) from error
        return id

    def collect(self) -> None:
        """Wait until all requests are answered. Raises Gone."""
        while self._pending:
            try:
                data = self.socket.recv(_READ_BYTES)
                replies = self._session.receive(data)
            except (OSError, ProtocolError) as error:
                self._give_up(str(error))
                raise Gone(str(error)) from error
            if not data:
                self._give_up("the connection ended")
                raise Gone("the connection ended")
            for reply in replies:
                self._take(reply)

    def exchange(self, *cases: Case) -> list[Reply]:
        """Send these requests, and wait for all replies."""
        ids = [self.send(case) for case in cases]
        self.collect()
        return [self.replies.pop(id) for id in ids if id in self.replies]

    def abandon(self) -> None:
        """Disconnect, whatever replies are pending."""
        self._ledger.abandoned += len(self._pending)
        self._pending.clear()
        self.socket.close()

    def close(self) -> None:
        """Close the connection. Requests without a reply count as lost."""
        self._give_up("never collected")

    def _give_up(self, why: str) -> None:
        if self._mortal:
            self._ledger.abandoned += len(self._pending)
        else:
            self._ledger.lost += [f"{case.kind}: {why}" for case, _ in self._pending.values()]
        self._pending.clear()
        self.socket.close()

    def _take(self, reply: Reply) -> None:
        ledger = self._ledger
        if isinstance(reply, Log) and reply.id in self._pending:
            return
        if not isinstance(reply.id, int) or reply.id not in self._pending:
            ledger.unexpected.append(f"a reply to nothing: {reply!r:.300}")
            return
        case, sent = self._pending.pop(reply.id)
        self.replies[reply.id] = reply
        said = word(reply)
        ledger.outcomes[case.kind, said] += 1
        if _by_a_kill(reply):
            ledger.hit.append((sent, time.monotonic(), f"{case.kind}: {reply!r:.300}"))
        elif said not in case.outcomes:
            ledger.unexpected.append(f"{case.kind}: {reply!r:.300}")
        elif isinstance(reply, Finished) and isinstance(reply.outcome, Ok) and case.value is not _ANY:
            value = json.decode(reply.outcome.value)
            if value != case.value:
                ledger.wrong.append(f"{case.kind}: {value!r:.200} is not {case.value!r:.200}")


# --- the load -----------------------------------------------------------------------------------------------


def program(salt: int) -> str:
    """Return a program that is different for each salt. `value_of` gives its result."""
    return (
        f"let sum = 0;\nfor (let i = 1; i <= Number(prompt); i++) sum += i * {salt};\n"
        f"const result = {{ sum, salt: {salt}, prompt }};\n"
    )


def value_of(salt: int, prompt: str) -> dict[str, object]:
    """Return the result of `program(salt)` for this prompt, which is a number in digits."""
    number = int(prompt)
    return {"sum": salt * number * (number + 1) // 2, "salt": salt, "prompt": prompt}


def _run(kind: str, source: str, *outcomes: str, value: Any = _ANY, **fields: Any) -> Case:
    return Case(kind, lambda id: Run(id=id, source=source, **fields), frozenset(outcomes), value)


def good(chance: random.Random) -> Case:
    """A run of a source that is not stored."""
    salt, prompt = chance.randrange(10**6), str(chance.randrange(1000))
    return _run("good", program(salt), "ok", value=value_of(salt, prompt), prompt=prompt)


def kept(chance: random.Random, hash: str, salt: int, kind: str = "good, kept") -> Case:
    """A run of a submitted program."""
    prompt = str(chance.randrange(1000))
    return Case(kind, lambda id: Run(id=id, hash=hash, prompt=prompt), frozenset({"ok"}), value_of(salt, prompt))


def long(chance: random.Random) -> Case:
    """A run that ends well, takes some time, and has its own limits."""
    ms = chance.randrange(20, 150)
    source = f"const t = Date.now(); while (Date.now() - t < {ms}); return prompt"
    limits = LimitsAsked(cpu_ms=8000, wall_ms=16_000)
    prompt = str(chance.randrange(10**9))
    return _run("good, long", source, "ok", value=prompt, prompt=prompt, limits=limits)


def large(chance: random.Random) -> Case:
    """A run that ends well, with a large prompt, env and result."""
    prompt = chance.choice("ab\u00fc\u4e2d") * chance.randrange(5_000, 100_000)
    number = chance.randrange(10**6)
    env = Raw(json.encode({"number": number, "filler": "x" * 5000}))
    source = "return [prompt.length, env.number, prompt.slice(0, 1000)]"
    return _run("good, large", source, "ok", value=[len(prompt), number, prompt[:1000]], prompt=prompt, env=env)


def jail(chance: random.Random) -> Case:
    """A run that ends well, in a jail of its own."""
    salt, prompt = chance.randrange(10**6), str(chance.randrange(1000))
    return _run("good, own jail", program(salt), "ok", value=value_of(salt, prompt), prompt=prompt, isolation="jail")


def deno(chance: random.Random) -> Case:
    """A run on Deno that ends well, in JavaScript or TypeScript."""
    salt, prompt = chance.randrange(10**6), str(chance.randrange(1000))
    language: Any = chance.choice(("javascript", "typescript"))
    options: Any = {"prompt": prompt, "engine": "deno", "language": language, "limits": _PATIENT}
    return _run("good, deno", program(salt), "ok", value=value_of(salt, prompt), **options)


def deno_bad(chance: random.Random) -> Case:
    """A program on Deno that uses up CPU or memory, floods the console, waits or fails."""
    source, *outcomes = chance.choice(
        (
            ("for (;;) {}", "cpu_limit"),
            ("const a = []; for (;;) a.push(new Uint8Array(1 << 20).fill(1))", "memory_limit", "cpu_limit"),
            ("for (;;) console.log('flood '.repeat(100))", "cpu_limit"),
            ("await new Promise(() => {})", "exception"),
            ("await new Promise((r) => setTimeout(r, 60000))", "wall_limit"),
            ("null.x", "exception"),
            ("let x = ;", "syntax_error"),
        )
    )
    limits = None if "wall_limit" in outcomes else _PATIENT
    return _run("bad, deno", source, *outcomes, engine="deno", limits=limits)


def submit(salt: int, name: str | None = None) -> Case:
    """A submit of `program(salt)`."""
    return Case("submit", lambda id: Submit(id=id, source=program(salt), name=name), frozenset({"submitted"}))


def remove(hash: str) -> Case:
    """A removal of an existing program."""
    return Case("remove", lambda id: Remove(id=id, hash=hash), frozenset({"removed"}))


def ask(chance: random.Random) -> Case:
    """A request that runs no program."""
    return chance.choice(
        (
            Case("ping, list, stats", lambda id: Ping(id=id), frozenset({"pong"})),
            Case("ping, list, stats", lambda id: ListRequest(id=id, limit=20), frozenset({"listed"})),
            Case("ping, list, stats", lambda id: Stats(id=id), frozenset({"stats"})),
        )
    )


def failing(chance: random.Random) -> Case:
    """A program that fails, or a request that is refused."""
    return chance.choice(
        (
            _run("failing", "null.x", "exception"),
            _run("failing", "let x = ;", "syntax_error"),
            _run("failing", "1", "bad_result"),
            _run("failing", "return 1", "error bad_request", limits=LimitsAsked(cpu_ms=10**9)),
            Case("failing", lambda id: Run(id=id, hash="0" * 64), frozenset({"error not_found"})),
            Case("failing", lambda id: Submit(id=id, source="}"), frozenset({"error bad_request"})),
        )
    )


def cpu_bomb(chance: random.Random) -> Case:
    """A program that uses CPU endlessly."""
    source = chance.choice(("for (;;) {}", "'x'.repeat(1e6).split('').sort(() => 0.5 - Math.random()).join()", _REGEXP))
    return _run("CPU bomb", source, "cpu_limit", limits=_PATIENT)


_REGEXP = "return /^(a+)+$/.test('a'.repeat(40) + 'b')"


def memory_bomb(chance: random.Random) -> Case:
    """A program that allocates memory endlessly."""
    source = chance.choice(
        ("const a = []; for (;;) a.push(new ArrayBuffer(1 << 22))", "let s = 'x'; for (;;) s += s + 'y'.repeat(1000)")
    )
    limits = LimitsAsked(cpu_ms=5000, wall_ms=20_000)
    return _run("memory bomb", source, "memory_limit", "exception", limits=limits)


def flood(chance: random.Random) -> Case:
    """A program that writes endlessly, or too much at once."""
    endless = "for (;;) console.log('flood '.repeat(100))"
    return chance.choice(
        (
            _run("flood", endless, "cpu_limit", limits=_PATIENT),
            _run("flood", endless, "cpu_limit", limits=_PATIENT, stream_logs=True),
            _run("flood", "return 'x'.repeat(2 << 20)", "output_limit", "cpu_limit", limits=_PATIENT),
            _run("flood", "return 'x'.repeat(1000000)", "ok", limits=_PATIENT, value="x" * 1_000_000),
        )
    )


def sleeper(chance: random.Random) -> Case:
    """A program that exceeds its wall time, or waits for a promise that is never settled."""
    wall_ms = chance.randrange(20, 300)
    return chance.choice(
        (
            _run("sleeper", "for (;;) {}", "wall_limit", limits=LimitsAsked(cpu_ms=9000, wall_ms=wall_ms)),
            _run("sleeper", "await new Promise(() => {})", "exception"),
        )
    )


def cancelled() -> Case:
    """An endless run that will be cancelled."""
    limits = LimitsAsked(cpu_ms=9000, wall_ms=20_000)
    return _run("cancelled", "for (;;) {}", "cancelled", limits=limits)


def cancel(target: int) -> Case:
    """A request to cancel a run."""
    return Case("cancel", lambda id: Cancel(id=id, target=target), frozenset({"cancelling"}))


def bad_frame(path: Path, chance: random.Random, ledger: Ledger) -> None:
    """Send bytes that are no frame. The daemon answers with one error without an id, and closes the connection."""
    junk = chance.choice(
        (
            b"\xff" * 8,
            b"\0\0\0\1\xc1",
            b"{nonsense\n",
            b"GET / HTTP/1.1\r\n\r\n",
            b"\0\0\1\0" + chance.randbytes(chance.randrange(255)),
            b'{"type":"run","id":1,',
            b"{" + b"x" * 9_000_000,
        )
    )
    ledger.requests["bad frame"] += 1
    received = b""
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.connect(os.fspath(path))  # no time-out yet, as in `Wire`
            sock.settimeout(REPLY_S)
            sock.sendall(junk)
            sock.shutdown(socket.SHUT_WR)
            while data := sock.recv(_READ_BYTES):
                received += data
        except TimeoutError:
            ledger.lost.append(f"bad frame {junk[:20]!r}: neither an answer nor the end")
            return
        except OSError:
            pass  # closed while the rest of the data was on its way
    if received.count(b"bad_request") + received.count(b"too_large") == 1 or (not received and len(junk) > 10_000):
        ledger.outcomes["bad frame", "refused"] += 1
    else:
        ledger.unexpected.append(f"bad frame {junk[:20]!r}: {received[:200]!r}")
