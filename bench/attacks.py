"""Attacks of one bad client on a daemon, by name. attacker.py runs one of them in a separate process."""

from __future__ import annotations

import os
import select
from collections import deque
from dataclasses import dataclass
from typing import Any

from bench.attack_steps import Prepare, Step, Target, Wire, again, frames, full, half, left, lines, poured, unread
from promptlogd.wire.messages import Cancel, Label, LimitsAsked, Ping, Remove, Run, Show, Submit
from promptlogd.wire.messages import List as ListPrograms

MIB = 1 << 20

_UNREAD = 128
"""Requests in flight on one connection: the daemon's default maximum."""
_IDS = 64
"""Number of ids in rotation: more than are pipelined, so that no id is in flight twice."""
_NAMES = 64
"""Maximum for one program."""
_LOOPS = 300
"""More than one connection may have in flight, so that the cancels wait behind other requests."""
_MANY = 9_000
_KEPT_OPEN = 4_000
"""Number of connections that stay open after their reply. Above it, the oldest is closed."""


@dataclass(frozen=True, kw_only=True)
class Attack:
    """One attack. `prepare` does the preparation, and returns the step that is repeated."""

    prepare: Prepare
    taken_over: bool = False
    """Requires the daemon of tests/hostile/takeover.py, whose children a program can take over."""
    from_other_uid: bool = False
    """Also measured from another uid."""


def _runs(*sources: str, limits: LimitsAsked | None = None, **options: Any) -> list[bytes]:
    """Return runs of these sources in turn, each with its own id."""
    return frames([
        Run(id=id, source=sources[id % len(sources)], limits=limits, **options) for id in range(_IDS)
    ])  # fmt: skip


def _show_unread(target: Target) -> Step:
    source = "return 1 //".ljust(1_000_000, "x")
    wire = Wire(target.path)
    wire.exchange(frames([Submit(id=1, source=source, name="bad-client-large")]))
    wire.close()
    asked = [Show(id=id, hash="@bad-client-large", source=True) for id in range(_UNREAD)]
    return unread(b"".join(frames(asked)))(target)


def _list_unread(connections: int) -> Prepare:
    def prepare(target: Target) -> Step:
        wire = Wire(target.path)
        for start in range(0, target.programs, 32):
            numbers = range(start, min(start + 32, target.programs))
            wire.exchange(frames([Submit(id=number, source=f"return {number}") for number in numbers]))
        wire.close()
        asked = [ListPrograms(id=id, limit=1000) for id in range(_UNREAD)]
        return unread(b"".join(frames(asked)), connections=connections)(target)

    return prepare


def _on_new_connections(in_flight: int) -> Prepare:
    """Send each endless loop on a new connection, and keep the old ones open."""

    def prepare(target: Target) -> Step:
        (loop,) = frames([Run(id=1, source=_ENDLESS)])

        def attack() -> None:
            waiting: dict[int, Wire] = {}
            answered: deque[Wire] = deque()
            with select.epoll() as ready:
                while True:
                    while len(waiting) < in_flight:
                        wire = Wire(target.path)
                        wire.send(loop)
                        waiting[wire.socket.fileno()] = wire
                        ready.register(wire.socket, select.EPOLLIN)
                    for descriptor, _ in ready.poll():
                        if waiting[descriptor].receive():
                            ready.unregister(descriptor)
                            answered.append(waiting.pop(descriptor))
                    while len(answered) > _KEPT_OPEN:
                        answered.popleft().close()

        return attack

    return prepare


def _names(target: Target) -> Step:
    """Give a program as many names as allowed, show it, and remove it."""
    named = [Label(id=id, name=f"bad-client-{id}", hash="@bad-client") for id in range(_NAMES - 1)]
    shown, removed = Show(id=1, hash="@bad-client", source=True), Remove(id=1, hash="@bad-client")
    steps = [frames(step) for step in (named, [shown], [removed])]
    numbers = iter(range(10**9))

    def attack() -> None:
        wire = Wire(target.path)
        source = f"return 'named {os.getpid()} {next(numbers)}'"
        while True:
            wire.exchange(frames([Submit(id=1, source=source, name="bad-client")]))
            for step in steps:
                wire.exchange(step)

    return attack


def _cancelled(target: Target) -> Step:
    """Send many endless loops at once, then a cancel for each and a ping, and wait for all replies."""
    limits = LimitsAsked(cpu_ms=10_000, wall_ms=10_000)
    loops = [Run(id=id, source=_ENDLESS, limits=limits) for id in range(_LOOPS)]
    cancels = [Cancel(id=_LOOPS + id, target=id) for id in range(_LOOPS)]
    sent = frames([*loops, *cancels, Ping(id="ping")])

    def attack() -> None:
        wire = Wire(target.path)
        while True:
            wire.exchange(sent)

    return attack


def _large_env() -> list[bytes]:
    """400,000 and 780,000 keys, 8 MB each."""
    requests = []
    for keys, width in ((400_000, 15), (780_000, 5)):
        members = ",".join(f'"{number:0{width}x}":0' for number in range(keys))
        requests.append(f'{{"type":"run","id":1,"source":"return 1","env":{{{members}}}}}\n'.encode())
    return requests


def _large_words() -> list[bytes]:
    word = b"x" * 8_000_000
    return [b'{"id":1,"type":"%b"}\n' % word, b'{"id":1,"type":"ping","%b":1}\n' % word]


def _large_prompt() -> list[bytes]:
    source = b"return 1 //" + rb"\u0061" * 280_000
    return [b'{"type":"run","id":1,"prompt":"%b","source":"%b"}\n' % (rb"\u0000" * MIB, source)]


def _large_functions() -> list[bytes]:
    return [b'{"type":"run","id":1,"source":"return 1","host_functions":[%b""]}\n' % (b'"",' * 2_500_000)]


def _log_frames() -> str:
    return "//TAKEOVER E " + (b"l\0\0\0\x011" * 5_000).hex() + "\n"


def _many(request: bytes, more: bytes = b"") -> bytes:
    """Return more requests of one type than may wait on a connection."""
    return b"".join(b'{"type":"%b","id":%d%b}\n' % (request, id, more) for id in range(_MANY))


def _tabs() -> list[bytes]:
    """A source with a syntax error after 1 MB of tabs."""
    source = "\t" * 1_000_000 + "let x: number = ;"
    return frames([Submit(id=id, source=f"{source}{id}", language="typescript") for id in range(4)])


def _functions(number: int) -> str:
    """A program of 800 KB of code, which compiles to much bytecode."""
    return (
        "".join(f"function f{n}(a, b) {{ return a.map((x) => x * {n} + b) }}\n" for n in range(15_000))
        + f"return {number}"
    )


def _much_bytecode(target: Target) -> Step:
    wire = Wire(target.path)
    wire.exchange(frames([Submit(id=1, source=_functions(0), name="bad-client-code")]))
    wire.close()
    runs = frames([Run(id=id, hash="@bad-client-code") for id in range(_IDS)])
    return again(lambda: runs, pipelined=8)(target)


def _much_to_compile() -> list[bytes]:
    return frames([Submit(id=id, source=_functions(id)) for id in range(_IDS)])


_ENDLESS = "for (;;) {}"
_STACKS = "console.log('\\n    at x' + '\\n'.repeat(65000));"
_HALF = "const a = Array({}).fill([]); a.push('\\ud800'); return a"
_LINES = "for (let i = 0; i < 4096; i++) console.log(''); return 1"
_LARGE = LimitsAsked(cpu_ms=5_000, result_bytes=4 * MIB)
_LONG = LimitsAsked(cpu_ms=10_000, wall_ms=10_000)
_MUCH_LOG = LimitsAsked(cpu_ms=1_000, log_bytes=MIB)
_ID_ALONE = b'{"id":1}\n'
_CANCEL = b'{"type":"cancel","id":1,"target":1}\n'
_PING = b'{"type":"ping","id":1}\n'
_UNKNOWN = b'{"id":1,"type":"ping","a":[%b0]}\n' % (b"0," * 7_500)
_HALF_FRAME = (8 * MIB).to_bytes(4, "big") + b"x" * 15_000
_SLEEPS = "await new Promise((done) => setTimeout(done, 600000))"
_SLEEP = LimitsAsked(wall_ms=30_000)


FOUND: dict[str, Attack] = {
    "console stacks": Attack(prepare=again(lambda: _runs(_STACKS + "return 1"), pipelined=8)),
    "console stacks, 1 MiB of log": Attack(
        prepare=again(lambda: _runs(_STACKS * 16 + "return 1", limits=_MUCH_LOG), pipelined=8)
    ),
    "340,000 lists and half a pair": Attack(prepare=again(lambda: _runs(_HALF.format(340_000)), pipelined=8)),
    "1,390,000 lists and half a pair": Attack(
        prepare=again(lambda: _runs(_HALF.format(1_390_000), limits=_LARGE), pipelined=8)
    ),
    "lists, 4 MiB, valid": Attack(
        prepare=again(lambda: _runs("return Array(1390000).fill([])", limits=_LARGE), pipelined=8)
    ),
    "env of 8 MB": Attack(prepare=lines(_large_env)),
    "line feeds": Attack(prepare=unread(_PING, b"\n" * MIB)),
    "ids alone, unread": Attack(prepare=unread(_ID_ALONE, _ID_ALONE * 10_000)),
    "cancels, unread": Attack(prepare=unread(_CANCEL, _CANCEL * 10_000)),
    "128 show of 1 MB, unread": Attack(prepare=_show_unread),
    "128 list, unread": Attack(prepare=_list_unread(1)),
    "128 list, unread, 4 connections": Attack(prepare=_list_unread(4)),
    "64 names, show, remove": Attack(prepare=_names),
    "empty log frames, child taken over": Attack(prepare=again(lambda: _runs(_log_frames())), taken_over=True),
    "the same, 4 with 10 s": Attack(
        prepare=again(lambda: _runs(_log_frames(), limits=_LONG), connections=4), taken_over=True
    ),
    "4,096 empty console lines": Attack(prepare=again(lambda: _runs(_LINES), pipelined=8)),
    "4,096 empty console lines, streamed": Attack(prepare=again(lambda: _runs(_LINES, stream_logs=True), pipelined=8)),
    "type or field of 8 MB": Attack(prepare=lines(_large_words)),
    "a run of 8 MB of escapes": Attack(prepare=lines(_large_prompt)),
    "host_functions of 8 MB": Attack(prepare=lines(_large_functions)),
    "300 loops, cancelled": Attack(prepare=_cancelled),
    "loops on new connections, 8 at once": Attack(prepare=_on_new_connections(8), from_other_uid=True),
    "loops on new connections, 250 at once": Attack(prepare=_on_new_connections(250), from_other_uid=True),
    **{
        f"loops, {connections} connection{'s' * (connections > 1)}": Attack(
            prepare=again(lambda: _runs(_ENDLESS), connections=connections), from_other_uid=True
        )
        for connections in (1, 8, 64, 250)
    },
}
"""Attacks that once delayed another client, or made the daemon's memory grow without bound."""

ATTACKS: dict[str, Attack] = {
    **FOUND,
    "pings, 50 connections": Attack(prepare=full(_PING * 5_000, connections=50)),
    "pings, 300 connections": Attack(prepare=full(_PING * 5_000, connections=300), from_other_uid=True),
    "unknown fields of 15 KB, 300 connections": Attack(prepare=full(_UNKNOWN * 20, connections=300)),
    "9,000 stats, 4 connections": Attack(prepare=full(_many(b"stats"), connections=4)),
    "9,000 stats, and left": Attack(prepare=poured(_many(b"stats"), connections=2)),
    "9,000 loops, and left": Attack(prepare=poured(_many(b"run", b',"source":"for (;;) {}"'), connections=2)),
    "connections that leave at once": Attack(prepare=left(_PING)),
    "loops whose client leaves at once": Attack(
        prepare=left(b"".join(frames([Run(id=1, source=_ENDLESS)]))), from_other_uid=True
    ),
    "half a frame, 4,000 connections": Attack(prepare=half(_HALF_FRAME, connections=4_000)),
    "sleepers of 30 s on Deno": Attack(
        prepare=again(lambda: _runs(_SLEEPS, limits=_SLEEP, engine="deno"), pipelined=64), from_other_uid=True
    ),
    "TypeScript of 1 MB of tabs": Attack(prepare=again(_tabs, pipelined=4)),
    "runs of 1 MB of bytecode": Attack(prepare=_much_bytecode),
    "submits of 800 KB of code": Attack(prepare=again(_much_to_compile, pipelined=4)),
}
