"""Answers of a checking process that was taken over: none becomes code of another program."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from promptlogctl.client import Client, Ok, RequestRefused
from sandbox.cells.job import Job
from sandbox.engines.deno.host.stripped import is_stripped
from sandbox.engines.quickjs.host.job import frame
from sandbox.limits import Limits
from sandbox.program import Artifact, Form
from sandbox.protocol.frames import Task

from .test_second_line import taken_over

BEFORE = b'(async function (prompt, env) {"use strict";\n'
AFTER = b'\n;return typeof result === "undefined" ? void 0 : result;\n})'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state folder of the daemon below."""
    return tmp_path_factory.mktemp("check")


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[Client]:
    """A client of a daemon whose checking processes can be taken over."""
    with taken_over(folder) as client:
        yield client


def _says(payload: bytes, announced: int | None = None) -> str:
    """Return a program whose check sends this answer. `announced` is the payload size that the answer claims."""
    frame = b"f" + (len(payload) if announced is None else announced).to_bytes(4, "big") + payload
    return f"return 1 //TAKEOVER W {frame.hex()}\n"


def test_the_daemon_wraps_the_text_itself(client: Client) -> None:
    """If a check reports a body, the daemon itself wraps the client's text for each run."""
    for source in ("return 'honest'", _says(b"B"), "}); globalThis.out = 1; (async function () {" + _says(b"B")):
        hash = client.submit(source).hash
        assert client.show(hash, source=True).source == source
        artifact = Artifact(form=Form.BODY, language="javascript")
        job = Job(task=Task.RUN, source=source.encode(), artifact=artifact, limits=Limits())
        assert BEFORE + source.encode() + AFTER in b"".join(frame(job))


@pytest.mark.parametrize(("payload", "announced"), [(b"Z", None), (b"", None), (b"b", None), (b"Bx", 3 << 20)])
def test_an_answer_without_a_form_or_with_too_much_code_is_rejected(
    client: Client, payload: bytes, announced: int | None
) -> None:
    """The daemon does not store the program, and reports why."""
    client.submit(_says(b"M"))  # the form alone is a valid answer
    with pytest.raises(RequestRefused, match="could not be checked: the engine crashed: the engine"):
        client.submit(_says(payload, announced))


def test_code_from_a_check_affects_only_its_own_program(client: Client) -> None:
    """Bytecode from a process that was taken over is stored with its program, and affects no other program."""
    forged = client.submit(_says(b"B" + BEFORE + b"return 'other'" + AFTER)).hash
    other = client.submit("return 'honest'").hash
    for _ in range(3):
        assert not isinstance(client.run(forged).outcome, Ok)
        assert client.run(other).value == "honest"


@pytest.mark.parametrize(
    ("source", "text", "right"),
    [
        ("let a: number = 1", "let a         = 1", True),
        ("type A = string\nreturn 1", ";              \nreturn 1", True),
        ("let é: 漢 = 1", "let é  \u2002 = 1", True),
        ("type é = 1;", "     \u00a0     ", True),
        ("type a = '😀'", "          \ufeff  ", True),
        ("let a: number = 1", "let a         = 2", False),  # a different byte
        ("let a: number = 1", "let a        = 1", False),  # shorter
        ("type A =\n1;let b", "type A = 1;let b", False),  # a removed line end
        ("type A = 1;let b", "type A =\n1;let b", False),  # an added line end
        ("if (a) b()\r\n", "if (a) b();;", False),
        ("let b\t= 1", "let b\0= 1", False),
    ],
)
async def test_a_text_without_types_must_match_the_source(source: str, text: str, right: bool) -> None:
    """The answer for TypeScript may contain blanks or semicolons in place of types, but nothing else that is new."""
    assert await is_stripped(source.encode(), text.encode()) is right


@pytest.mark.parametrize("before", range(4))
async def test_a_large_text_without_types_is_compared_completely(before: int) -> None:
    """The largest program is compared as a whole, in slices that split no character: one different byte is found."""
    source = b"x" * before + "let 漢: 'é😀' = 1;\n".encode() * 45_000
    text = source.replace(": 'é😀'".encode(), "   \u00a0\ufeff  ".encode())
    assert len(text) == len(source) > 1_000_000
    assert await is_stripped(source, text)
    for at in (0, 65_535, 65_536, 65_537, len(text) - 2):
        if source[at] < 0x80:
            assert not await is_stripped(source, text[:at] + b"!" + text[at + 1 :])
    assert not await is_stripped(source, text.replace("漢".encode(), b"\xe6\xbc ", 1))  # an incomplete character
