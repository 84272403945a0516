"""Arguments of wrong types, for each method of both clients; and the `repr` of what the methods return."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from enum import StrEnum
from typing import Any

import anyio
import pytest

from promptlogctl.client import AsyncClient, Client, LimitsAsked, Ok

_HASH = "0" * 64
_SOURCE = "return 1"

_ARGUMENTS: dict[str, tuple[dict[str, str], str]] = {
    "submit": ({"source": _SOURCE}, "source name move engine language visibility replace tenant"),
    "run": ({"reference": _HASH}, "reference prompt"),
    "run_source": ({"source": _SOURCE}, "source env limits isolation engine on_log language tenant"),
    "show": ({"reference": _HASH}, "reference source"),
    "remove": ({}, "reference"),
    "label": ({"name": "a", "reference": _HASH}, "name reference visibility"),
    "journal": ({}, "hash failed since after"),
    "journal_entry": ({}, "number"),
    "journal_sums": ({}, "hash since"),
    "collect": ({}, "unused_s over_bytes dry_run"),
    "back_up": ({}, "folder"),
}
"""For each method: right arguments, and the names of all arguments."""

_CASES = [(method, right, name) for method, (right, names) in _ARGUMENTS.items() for name in names.split()]
_LIMITS = ("cpu_ms", "wall_ms", "memory_bytes", "result_bytes", "log_bytes")
_WRONG = [object(), {1, 2}, ("a",)]
_NUMBERS = ("since", "after", "number", "unused_s", "over_bytes")


@pytest.mark.parametrize(("method", "right", "name"), _CASES, ids=[f"{method} {name}" for method, _, name in _CASES])
def test_a_wrong_type_is_a_type_error(client: Client, method: str, right: dict[str, str], name: str) -> None:
    """Both clients raise TypeError at once for an argument of a wrong type, and send nothing."""
    wrong = [*_WRONG, "1" if name in _NUMBERS else 1]
    errors = client.stats().errors

    def call(client: Client | AsyncClient, value: object) -> Any:
        return getattr(client, method)(**{**right, name: value})

    def finish(found: Any) -> None:
        if inspect.isgenerator(found):
            next(found)

    async def finish_async(found: Any) -> None:
        await (anext(found) if inspect.isasyncgen(found) else found)

    async def main() -> None:
        async with AsyncClient(client.socket_path) as asynchronous:
            for value in wrong:
                with pytest.raises(TypeError):
                    await finish_async(call(asynchronous, value))

    for value in wrong:
        with pytest.raises(TypeError):
            finish(call(client, value))
    anyio.run(main, backend="trio")
    assert client.stats().errors == errors


@pytest.mark.parametrize("limit", _LIMITS)
def test_a_limit_of_a_wrong_type(client: Client, limit: str) -> None:
    """A limit that is not an integer is a TypeError that names the limit."""
    for wrong in (*_WRONG, "1", 1.5, True):
        with pytest.raises(TypeError, match=f"`limits.{limit}` must be int"):
            client.run_source(_SOURCE, limits=LimitsAsked(**{limit: wrong}))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda c: c.run(None), "either a stored program or a source"),
        (lambda c: c.start("@a", source=_SOURCE), "either a stored program or a source"),
        (lambda c: c.show(5), "`hash` must be str, not int"),
        (lambda c: c.run_source(_SOURCE, limits=LimitsAsked(cpu_ms="9")), "`limits.cpu_ms` must be int .*, not str"),  # type: ignore[arg-type]
    ],
)
def test_a_type_error_names_the_field(client: Client, call: Callable[[Any], object], says: str) -> None:
    """The message of a TypeError names the field, the right type and the given one."""
    with pytest.raises(TypeError, match=says):
        call(client)


def test_an_integer_without_an_encoding(client: Client) -> None:
    """An integer that no message can contain is a ValueError, and the connection stays usable."""
    with pytest.raises(ValueError, match="an integer is too large"):
        client.journal_entry(2**70)
    assert client.run_source(_SOURCE).value == 1


def test_other_right_types(client: Client) -> None:
    """Options that are None, members of a StrEnum, and integers for seconds are no type errors."""

    class Engines(StrEnum):
        QUICKJS = "quickjs"

    options = dict.fromkeys(("name", "move", "engine", "language", "visibility", "replace", "tenant"))
    hash = client.submit(_SOURCE, **options).hash
    assert client.run(hash, engine=Engines.QUICKJS).value == 1
    assert list(client.journal(since=2**33)) == []


def test_reprs(client: Client) -> None:
    """Each object of the client has a `repr` that says what it is, in one line without control characters."""
    assert repr(client) == f"<Client of {client.socket_path}, not connected>"
    pending = client.start(None, source="return 'a\\u202e\\u009b'")
    assert repr(pending) == f"<PendingRun 1 of {client.socket_path}: no result yet>"
    result = pending.result()
    assert repr(result).startswith(r'<RunResult ok: "a\u202e\x9b" (cpu ')
    assert isinstance(result.outcome, Ok)
    assert repr(result.outcome) == r"""Ok(value='"a\u202e\x9b"')"""
    assert repr(pending) == f"<PendingRun 1 of {client.socket_path}: {result!r}>"
    assert repr(client) == f"<Client of {client.socket_path}, connected>"
    assert repr(client.run_source("throw 'a\\n\\x1b[31m'")).startswith(r"<RunResult exception: thrown: a\n\x1b[31m (")
    assert len(repr(client.run_source("return 'x'.repeat(1e5)").outcome)) < 300
    assert repr(AsyncClient(client.socket_path)) == f"<AsyncClient of {client.socket_path}, 0 requests in flight>"


def test_a_timeout_may_be_infinite(client: Client) -> None:
    """`result` accepts a timeout of any length."""
    for timeout in (float("inf"), 1e300):
        assert client.start(None, source=_SOURCE).result(timeout).value == 1
