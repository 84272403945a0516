"""The golden byte sequences: each implementation of the protocol decodes and encodes them exactly.

Each line of golden.jsonl has one sequence. `messages` is its meaning. A malformed sequence ends with
`{"malformed": part of the reason}`. `caps` lists the differences from `_CAPS`. If a sequence's name begins with the
name of an engine, the engine's jailed side writes it for the program of that name in `_PROGRAMS`.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
import trio

from sandbox.cells.cell import Cell
from sandbox.cells.job import Job
from sandbox.cells.plan import Plan
from sandbox.engines.deno.host import start as deno
from sandbox.limits import Limits
from sandbox.program import Artifact, Form, Language
from sandbox.protocol.events import Maybe, Message
from sandbox.protocol.frames import WAKE_FRAME, Caps, Decoder, Malformed, Task, answer_frame, job_frame
from tests.cell.cells import a_cell, finish, kept
from tests.hosts import host

_GOLDEN: dict[str, dict[str, Any]] = {
    line["name"]: line
    for line in map(
        msgspec.json.decode, Path(__file__).with_name("golden.jsonl").read_text(encoding="utf-8").splitlines()
    )
}

_CAPS: dict[str, Any] = {
    "result_bytes": 1 << 20, "log_bytes": 64 << 10, "artifact_bytes": 4096, "call_bytes": 4096, "mappings": 3,
}  # fmt: skip

_KINDS = {
    "Log": "log", "Call": "call", "Wait": "wait", "Maybe": "maybe", "Value": "value", "TooLarge": "too_large",
    "NoJson": "no_json", "Thrown": "thrown", "OutOfMemory": "out_of_memory", "Refused": "refused", "Checked": "checked",
}  # fmt: skip

_LEVELS = (
    "console.debug('d'); console.log('l', 1); console.info('i'); console.warn('w'); console.error('é'); "
    "console.log(''); return 1"
)
_PROGRAMS: dict[str, tuple[Language, str]] = {
    "value": ("javascript", "return {a: [1, 'é']}"),
    "value of a run": ("javascript", "return prompt"),
    "too large": ("javascript", "return 'x'.repeat(50)"),
    "too large in bytes alone": ("javascript", "return 'é'.repeat(6)"),
    "no JSON": ("javascript", "return 1n"),
    "no memory": ("javascript", "return new Uint8Array(1 << 30).length"),
    "thrown": ("javascript", "throw {name: 'Own', message: 'with é', stack: ''}"),
    "log lines": ("javascript", _LEVELS),
    "log lines past their cap": ("javascript", "for (let i = 0; i < 9; i++) console.log('x'.repeat(20)); return 1"),
    "refused": ("javascript", "\n  export const a = 1;"),
    "refused when it runs": ("javascript", "export default 1;"),
    "checked, a body": ("javascript", "return 1"),
    "checked, a module": ("javascript", "export default () => 1"),
    "checked, TypeScript without its types": ("typescript", "const result: number = 1"),
    "checked, TypeScript that stays": ("typescript", "enum A { B }; return A.B"),
    "log lines of TypeScript, a body": ("typescript", "console.log(1 as number); const result: number = 1"),
    "log lines of TypeScript, a module": (
        "typescript",
        "export default (): number => { console.warn('x'); return 1 }",
    ),
}


def _lines(direction: str) -> list[dict[str, Any]]:
    return [line for line in _GOLDEN.values() if line["direction"] == direction]


def _name(line: dict[str, Any]) -> str:
    return str(line["name"])


def _decoder(line: dict[str, Any]) -> Decoder:
    caps = Caps(task=Task(line["task"]), **_CAPS | line.get("caps", {}))
    return Decoder(caps, token=bytes.fromhex(line["token"]))


def _plain(message: Message) -> dict[str, Any]:
    """Return a message in the format of the golden file."""
    fields = {name: getattr(message, name) for name in message.__struct_fields__}
    if isinstance(message, Maybe):
        fields["last"] = None if message.last is None else _plain(message.last)
    plain = {name: field.decode() if isinstance(field, bytes) else field for name, field in fields.items()}
    return {"kind": _KINDS[type(message).__name__], **plain}


def _decode(line: dict[str, Any], parts: list[bytes]) -> list[dict[str, Any]]:
    """Return the messages of these parts in order, and the reason of Malformed as the last item."""
    decoder = _decoder(line)
    found = []
    try:
        for part in parts:
            found += [_plain(message) for message in decoder.feed(part)]
    except Malformed as error:
        found.append({"malformed": str(error)})
    return found


def _assert_says(found: list[dict[str, Any]], messages: list[dict[str, Any]]) -> None:
    """Check decoded messages. The reason of Malformed must contain the part that the golden line names."""
    if messages and "malformed" in messages[-1]:
        assert messages[-1]["malformed"] in found[-1].get("malformed", ""), found
        found, messages = found[:-1], messages[:-1]
    assert found == messages


def test_every_message_is_in_the_file() -> None:
    """The golden file has each message of a process, alone or in a sequence, and each frame to a process."""
    sent = {message.get("kind") for line in _lines("from") for message in line["messages"]}
    assert {_KINDS[kind.__name__] for kind in get_args(Message)} == sent - {None}
    assert {message["kind"] for line in _lines("to") for message in line["messages"]} == {"job", "answer", "wake"}
    assert {line["task"] for line in _lines("from")} == {task.value for task in Task}


@pytest.mark.parametrize("line", _lines("from"), ids=_name)
def test_each_sequence_is_decoded_byte_by_byte(line: dict[str, Any]) -> None:
    """A sequence that arrives byte by byte gives its messages, and then the reason if it is malformed."""
    data = bytes.fromhex(line["hex"])
    _assert_says(_decode(line, [data[at : at + 1] for at in range(len(data))]), line["messages"])


@pytest.mark.parametrize("line", _lines("from"), ids=_name)
def test_each_sequence_is_decoded_wherever_it_is_split(line: dict[str, Any]) -> None:
    """A sequence in one or two parts gives the same messages, wherever it is split.

    If a part is malformed, the messages of the same part are dropped.
    """
    data, messages = bytes.fromhex(line["hex"]), line["messages"]
    for at in range(len(data) + 1):
        found = _decode(line, [data[:at], data[at:]])
        if messages and "malformed" in messages[-1]:
            assert messages[-1]["malformed"] in found[-1].get("malformed", ""), (at, found)
            assert found[:-1] == messages[: len(found) - 1], at
        else:
            assert found == messages, at


@pytest.mark.parametrize("line", _lines("to"), ids=_name)
def test_each_frame_to_a_process_is_encoded(line: dict[str, Any]) -> None:
    """Jobs, answers and wake-ups are encoded to these bytes."""
    data = b""
    for message in line["messages"]:
        match message:
            case {"kind": "job", "payload": payload}:
                data += b"".join(job_frame(payload.encode()))
            case {"kind": "answer", "number": number, "ok": ok, "json": json}:
                data += answer_frame(number, ok=ok, json=json.encode())
            case {"kind": "wake"}:
                data += WAKE_FRAME
    assert data.hex() == line["hex"]


@pytest.mark.parametrize("parts", [(), (b"",), (b"a", b"b"), (b"ab", b"", b"cd")])
def test_a_job_may_have_parts(parts: tuple[bytes, ...]) -> None:
    """The parts of a job follow one another in one frame."""
    assert b"".join(job_frame(*parts)) == b"".join(job_frame(b"".join(parts)))


@pytest.fixture(scope="module")
def deno_plan() -> Iterator[Plan]:
    """A plan that starts a Deno cell, with a separate root folder for its jail."""
    folder = Path(tempfile.mkdtemp(prefix="promptlog-", dir="/run" if os.geteuid() == 0 else None))
    folder.chmod(0o755)
    try:
        yield trio.run(host("deno", folder / "root").plan, None)
    finally:
        shutil.rmtree(folder)


async def _written(
    cell: AbstractAsyncContextManager[Cell], line: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> bytes:
    """Return the bytes that the jailed process writes while it runs or checks the program of this line."""
    parts: list[bytes] = []
    feed, hold = Decoder.feed, Decoder.hold

    def tap(decoder: Decoder, data: bytes) -> list[Message]:
        parts.append(data)
        return feed(decoder, data)

    def tap_held(decoder: Decoder, held: Sequence[bytes]) -> None:
        if not decoder.ended:  # otherwise `hold` calls `feed`
            parts.extend(held)
        hold(decoder, held)

    monkeypatch.setattr(Decoder, "feed", tap)
    monkeypatch.setattr(Decoder, "hold", tap_held)  # bytes that are read after the process has ended
    engine, _, name = line["name"].partition(": ")
    language, source = _PROGRAMS[name]
    caps = {key: value for key, value in line["caps"].items() if key in ("result_bytes", "log_bytes")}
    task = Task(line["task"])
    artifact = Artifact(form=Form.BODY, language=language) if task is Task.RUN else None
    async with cell as started:
        job = Job(
            task=task,
            source=source.encode(),
            artifact=artifact,
            engine=engine,
            language=language,
            prompt="p",
            artifact_bytes=len(source) if engine == "deno" else 0,
            limits=Limits(cpu_ms=5000, wall_ms=60_000, memory_bytes=started.plan.default.memory_bytes, **caps),
        )
        with trio.fail_after(90):
            await finish(started, job)
    return b"".join(parts)


def _of_engine(engine: str) -> list[Any]:
    return [pytest.param(line, id=name) for name, line in _GOLDEN.items() if name.startswith(f"{engine}: ")]


@pytest.mark.parametrize("line", _of_engine("quickjs"))
async def test_quickjs_writes_the_golden_bytes(
    line: dict[str, Any], plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A jailed QuickJS child writes the golden sequence of its program."""
    assert (await _written(a_cell(plan), line, monkeypatch)).hex() == line["hex"]


@pytest.mark.parametrize("line", _of_engine("deno"))
async def test_deno_writes_the_golden_bytes(
    line: dict[str, Any], deno_plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A jailed Deno writes the golden sequence of its program, each frame after the run's token."""
    golden = bytes.fromhex(line["token"])
    written = await _written(kept(lambda reactor: deno.start(deno_plan, reactor)), line, monkeypatch)
    token = written[: len(golden)]
    assert token != golden
    assert written.replace(token, golden).hex() == line["hex"]


async def test_each_deno_run_has_its_own_token(deno_plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs of a program write the same bytes except for the token, which differs."""
    line = _GOLDEN["deno: value"]
    written = [
        await _written(kept(lambda reactor: deno.start(deno_plan, reactor)), line, monkeypatch) for _ in range(2)
    ]
    tokens = [data[: len(bytes.fromhex(line["token"]))] for data in written]
    assert tokens[0] != tokens[1]
    assert len({data.replace(token, b"") for data, token in zip(written, tokens, strict=True)}) == 1


def test_every_program_has_its_sequence() -> None:
    """Each program has a golden sequence on at least one engine, and each engine's sequence has a program."""
    names = {name.partition(": ")[2] for name in _GOLDEN if name.startswith(("quickjs: ", "deno: "))}
    assert names == _PROGRAMS.keys()
