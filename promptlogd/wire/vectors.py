"""Generate docs/vectors.json, example messages with their bytes: `python -m promptlogd.wire.vectors`.

They are test data for clients in other languages: messages that a client sends, and messages that it must read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, get_args

import msgspec

from promptlogd.wire import messages as m
from promptlogd.wire.framing import Encoding
from promptlogd.wire.session import ClientSession, ServerSession
from sandbox import outcome as o
from sandbox.limits import Limits

_HASH = "5042123fc67857ac62fefd20124acd05c3286979540fd08ad9516a94d881cf82"
_OTHER = "a207" * 16
_ENGINE = "quickjs-ng 0.17"
_USAGE = o.Usage(cpu_ms=1.5, wall_ms=2.25, peak_memory_bytes=4194304)
_JSON = msgspec.Raw(b'{"n":1.50,"s":"\xc3\xa4","a":[null,true]}')
_TEXT = 'quotes " \\ / and \u00e4 \u6f22 \U0001f600, line\nfeed, \u0001'

_DURATIONS = m.Histogram(bounds_ms=[1.0, 10.0], counts=[1, 0, 2], sum_ms=60.5)
_STATS = m.StatsReply(
    id=9, uptime_s=60.5, clients=1, running=0, queued=0, runs={"ok": 3}, errors={"busy": 1}, programs=1,
    pools=[m.PoolStats(engine="quickjs", size=2, blank=2, busy=0, started=2, retired=0)],
    held_by={"memory": "a cgroup"}, cgroup="none: pool.cgroup is never", turns=_DURATIONS,
    engines=[m.EngineStats(engine="quickjs", runs={"ok": 3}, cpu=_DURATIONS, wall=_DURATIONS)],
    program_bytes=8, journal=m.JournalCounts(rows=4, bytes=4096, waiting=0, lost=0),
    max_clients=12_000, max_running=2, max_queued=512, quotas={"runs_per_s": 2},
    store_bytes=16384, max_store_bytes=1 << 20,
)  # fmt: skip

REQUESTS: list[tuple[str, m.Request]] = [
    ("the smallest request", m.Ping(id=0)),
    ("an id that is a string", m.Ping(id="first")),
    ("the largest id", m.Ping(id=2**53 - 1)),
    ("a program", m.Submit(id=1, source="const result = prompt.length")),
    ("a program with a name, in TypeScript", m.Submit(id=1, source=_TEXT, name="a.b-c_1", language="typescript")),
    ("a program whose name must not be on another one", m.Submit(id=1, source="return 1", name="a", move=False)),
    ("a run of a stored program", m.Run(id=2, hash=_HASH, prompt=_TEXT)),
    ("a run by name, with an env", m.Run(id=2, hash="@a", env=_JSON)),
    (
        "a run of a source, with all options",
        m.Run(
            id=3,
            source="return 1",
            engine="deno",
            language="typescript",
            limits=m.LimitsAsked(cpu_ms=100, wall_ms=2000, memory_bytes=1 << 26, result_bytes=1000, log_bytes=1000),
            isolation="jail",
            stream_logs=True,
        ),
    ),
    ("cancelling a run", m.Cancel(id=4, target=3)),
    ("describing a program", m.Show(id=5, hash="@a", source=True)),
    ("the first page of a list", m.List(id=6, limit=2)),
    ("another page of a list", m.List(id=6, limit=2, after="20261130")),
    ("removing a program", m.Remove(id=7, hash=_HASH[:8])),
    ("moving a name", m.Label(id=8, name="a", hash=_HASH)),
    ("undoing a move of a name", m.Label(id=8, name="a")),
    ("counters", m.Stats(id=9)),
    ("the newest journal entries", m.ReadJournal(id=10)),
    ("failed runs of a program, another page", m.ReadJournal(id=10, hash="@a", failed=True, since=1.5, before=7)),
    ("one journal entry in full", m.ReadJournal(id=10, entry=7)),
    ("totals of the journal", m.JournalStats(id=11, since=1.5)),
    ("settings", m.Config(id=10)),
    ("what unused programs would be removed", m.Collect(id=12, unused_s=86400.0, over_bytes=1, dry_run=True)),
    ("verify the first programs", m.Verify(id=13, limit=10)),
    ("a backup", m.Backup(id=14, folder="/srv/backup")),
]  # fmt: skip

_OUTCOMES: list[o.Outcome] = [
    o.Ok(value=_JSON),
    o.ProgramException(name="TypeError", message=_TEXT, stack="    at f (program.js:3:3)", line=3, column=3),
    o.ProgramSyntaxError(message="unexpected token", line=1, column=9),
    o.BadResult(message="the program gave no result"),
    o.CpuLimit(limit=50, used=50.5),
    o.WallLimit(limit=1000, used=1000.5),
    o.MemoryLimit(limit=1 << 27, used=1 << 27),
    o.OutputLimit(limit=1 << 20, used=2_000_002),
    o.Cancelled(),
    o.Crashed(message="the process was killed", signal="SIGSYS"),
]

REPLIES: list[tuple[str, m.Reply]] = [
    ("versions", m.Pong(id=0, version="1.0", protocol=m.PROTOCOL_VERSION, pid=42, engines={"quickjs": _ENGINE})),
    ("stored", m.Submitted(id=1, hash=_HASH, created=True)),
    ("stored, with a name that was on another program", m.Submitted(id=1, hash=_HASH, created=True, moved_from=_OTHER)),
    ("a console line", m.Log(id=3, level="warn", text=_TEXT)),
    (
        "a run with console lines",
        m.Finished(
            id=2, hash=_HASH, outcome=_OUTCOMES[0], logs=[o.LogLine(level="log", text="a")], usage=_USAGE,
            engine_version=_ENGINE, limits=Limits(),
        ),
    ),
    *((f"the outcome {one.__struct_config__.tag}", m.Finished(id=2, hash=_HASH, outcome=one, logs=[], usage=_USAGE))
      for one in _OUTCOMES),
    ("counters", _STATS),
    ("cancelled", m.Cancelling(id=4, found=True)),
    ("a program was removed", m.Removed(id=7, hash=_HASH, names=["a", "b"])),
    ("a name was moved", m.Named(id=8, name="a", hash=_HASH)),
    (
        "a program with its source",
        m.Shown(
            id=5, hash=_HASH, size=8, created_at=1.5, created_by=1000, runs=2, last_run_at=2.5, names=["a"],
            history={"a": [m.NameChange(hash=_OTHER, at=1.5), m.NameChange(hash=_HASH, at=2.5)]}, source="return 1",
        ),
    ),
    (
        "a page of a list",
        m.Listed(
            id=6, programs=[m.Listing(hash=_HASH, size=8, created_at=1.5, engine="deno", runs=0, names=[])],
            next="20261130",
        ),
    ),
    (
        "totals of a program",
        m.JournalSums(
            id=11,
            programs=[
                m.JournalSum(
                    hash=_HASH, engine="quickjs", runs=2, failed=1, cpu_ms=51.5, cpu_max_ms=50.0, wall_mean_ms=26.0,
                    memory_max_bytes=4194304, last_at=2.5,
                )
            ],
        ),
    ),
    (
        "unused programs",
        m.Collected(
            id=12, programs=[m.CollectedProgram(hash=_HASH, size=16384, used_at=1.5)], store_bytes=32768, next="1:2:3"
        ),
    ),
    (
        "verified programs",
        m.Verified(
            id=13, programs=10, artifacts=10, bytes=4096,
            damaged=[m.DamagedPart(hash=_HASH, part="program", why="its bytes do not match its hash")], next=_HASH,
        ),
    ),
    ("a backup is complete", m.BackedUp(id=14, programs=10, linked=30, copied=2)),
    (
        "journal entries",
        m.Entries(id=10, entries=[m.JournalEntry(id=7, at=1.5, kind="run", uid=1, outcome="ok", hash=_HASH)], next=7),
    ),
    (
        "settings",
        m.ConfigReply(
            id=10, files=["/etc/promptlog/promptlog.toml"],
            settings=[
                m.SettingInfo(name="limits.default.cpu_ms", value="50", source="default", reload=True),
                m.SettingInfo(
                    name="pool.cells", value="null", source="default", after_restart="8",
                ),
            ],
        ),
    ),
    *((f"the error {code}", m.Error(id=1, code=code, message="why", detail={"line": 1}))
      for code in get_args(m.ErrorCode)),
    ("an error for a frame without a readable id", m.Error(code="bad_request", message="why")),
]  # fmt: skip

REFUSED: list[tuple[str, Encoding, bytes, bool]] = [
    ("an unknown field", "json", b'{"type":"ping","id":1,"more":2}\n', False),
    ("an unknown type", "json", b'{"type":"nothing","id":1}\n', False),
    ("an id below 0", "json", b'{"type":"ping","id":-1}\n', True),
    ("no id", "json", b'{"type":"ping"}\n', True),
    ("not JSON", "json", b'{"type":"ping","id":\n', True),
    ("an integer instead of a map", "msgpack", bytes.fromhex("0000000101"), True),
    ("a frame that exceeds the maximum size", "msgpack", bytes.fromhex("7fffffff"), True),
]
"""Description, encoding, bytes, and whether the daemon closes the connection."""


def _vector(about: str, message: Any, frames: dict[Encoding, bytes]) -> dict[str, Any]:
    line = frames["json"].decode()
    return {"about": about, "message": json.loads(line), "json": line, "msgpack": frames["msgpack"].hex()}


def _of_request(request: m.Request) -> dict[Encoding, bytes]:
    return {encoding: ClientSession(encoding=encoding).send(request) for encoding in get_args(Encoding)}


def _of_reply(reply: m.Reply) -> dict[Encoding, bytes]:
    return {encoding: b"".join(_server(encoding).send(reply)) for encoding in get_args(Encoding)}


def _server(encoding: Encoding) -> ServerSession:
    """Return the daemon's side of a connection whose first request had this encoding."""
    session = ServerSession()
    list(session.events(ClientSession(encoding=encoding).send(m.Ping(id=0))))
    return session


def vectors() -> dict[str, Any]:
    """Return the content of docs/vectors.json."""
    return {
        "protocol": m.PROTOCOL_VERSION,
        "requests": [_vector(about, request, _of_request(request)) for about, request in REQUESTS],
        "replies": [_vector(about, reply, _of_reply(reply)) for about, reply in REPLIES],
        "refused": [
            {"about": about, encoding: data.decode() if encoding == "json" else data.hex(), "closes": closes}
            for about, encoding, data, closes in REFUSED
        ],
    }


def parts() -> Iterator[str]:
    """Yield the parts of the file, which has one vector on each line."""
    found = vectors()
    yield f'{{"protocol": {found["protocol"]}'
    for kind in ("requests", "replies", "refused"):
        yield f',\n"{kind}": [\n' + ",\n".join(json.dumps(one, ensure_ascii=True) for one in found[kind]) + "\n]"
    yield "}\n"


if __name__ == "__main__":
    print("".join(parts()), end="")
