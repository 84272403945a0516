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

# One call for each argument.
_CALLS: dict[str, Callable[[Any, Any], Any]] = {
    "submit source": lambda c, wrong: c.submit(wrong),
    **{
        f"submit {option}": lambda c, wrong, option=option: c.submit(_SOURCE, **{option: wrong})
        for option in ("name", "move", "engine", "language", "visibility", "replace", "tenant")
    },
    "run reference": lambda c, wrong: c.run(wrong),
    "run prompt": lambda c, wrong: c.run(_HASH, wrong),
    "run_source source": lambda c, wrong: c.run_source(wrong),
    **{
        f"run_source {option}": lambda c, wrong, option=option: c.run_source(_SOURCE, **{option: wrong})
        for option in ("env", "limits", "isolation", "engine", "on_log", "language", "tenant")
    },
    **{
        f"limit {limit}": lambda c, wrong, limit=limit: c.run_source(_SOURCE, limits=LimitsAsked(**{limit: wrong}))
        for limit in ("cpu_ms", "wall_ms", "memory_bytes", "result_bytes", "log_bytes")
    },
    "show reference": lambda c, wrong: c.show(wrong),
    "show source": lambda c, wrong: c.show(_HASH, source=wrong),
    "remove reference": lambda c, wrong: c.remove(wrong),
    "label name": lambda c, wrong: c.label(wrong, _HASH),
    "label reference": lambda c, wrong: c.label("a", wrong),
    "label visibility": lambda c, wrong: c.label("a", _HASH, visibility=wrong),
    **{
        f"journal {option}": lambda c, wrong, option=option: c.journal(**{option: wrong})
        for option in ("hash", "failed", "since", "after")
    },
    "journal_entry number": lambda c, wrong: c.journal_entry(wrong),
    **{
        f"journal_sums {option}": lambda c, wrong, option=option: c.journal_sums(**{option: wrong})
        for option in ("hash", "since")
    },
    **{
        f"collect {option}": lambda c, wrong, option=option: c.collect(**{option: wrong})
        for option in ("unused_s", "over_bytes", "dry_run")
    },
    "back_up folder": lambda c, wrong: c.back_up(wrong),
}
_WRONG = [object(), {1, 2}, ("a",)]
_NUMBERS = ("limit", "since", "after", "number", "unused_s", "over_bytes")


@pytest.mark.parametrize("call", _CALLS.values(), ids=_CALLS)
def test_a_wrong_type_is_a_type_error(client: Client, call: Callable[[Any, Any], Any], request: Any) -> None:
    """Both clients raise TypeError at once for an argument of a wrong type, and send nothing."""
    name = request.node.callspec.id
    wrong = [*_WRONG, "1" if any(word in name for word in _NUMBERS) else 1]
    errors = client.stats().errors

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


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda c: c.run(None), "either a stored program or a source"),
        (lambda c: c.start("@a", source=_SOURCE), "either a stored program or a source"),
        (lambda c: c.show(5), "`hash` must be str, not int"),
        (lambda c: c.run_source(_SOURCE, limits=LimitsAsked(cpu_ms="9")), "`limits.cpu_ms` must be int .*, not str"),
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
    options = dict.fromkeys(("name", "move", "engine", "language", "visibility", "replace", "tenant"))
    hash = client.submit(_SOURCE, **options).hash  # type: ignore[arg-type]
    assert client.run(hash, engine=StrEnum("Engines", ["quickjs"])("quickjs")).value == 1
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
