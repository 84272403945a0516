"""Requests with one fault: each is accepted without the fault, and refused with the name of the field with it."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.clients.target import target
from tests.daemon.processes import ask

SOURCE = "return [prompt, env]"
KEPT = "@kept"
_LIMITS = {"cpu_ms": 50, "wall_ms": 9000, "memory_bytes": 64 << 20, "result_bytes": 1000, "log_bytes": 1000}

RIGHT: dict[str, dict[str, Any]] = {
    "submit": {
        "type": "submit", "source": SOURCE, "name": "kept", "engine": "quickjs", "language": "javascript",
    },
    "run": {
        "type": "run", "hash": KEPT, "prompt": "p", "env": {"a": 1}, "engine": "quickjs", "limits": _LIMITS,
        "isolation": "cell", "stream_logs": False, "host_functions": [],
    },
    "run a source": {"type": "run", "source": SOURCE, "language": "javascript"},
    "cancel": {"type": "cancel", "target": 99},
    "show": {"type": "show", "hash": KEPT, "source": True},
    "list": {"type": "list", "limit": 1, "after": "0x1p0:00"},
    "name": {"type": "name", "name": "other", "hash": KEPT},
    "stats": {"type": "stats"},
    "ping": {"type": "ping"},
    "remove": {"type": "remove", "hash": KEPT},
}  # fmt: skip
"""A valid request of each kind with every field, given that a program has the name @kept."""

_REPLIES = {"submit": "submitted", "run": "finished", "run a source": "finished", "cancel": "cancelling"}
_REPLIES |= {"show": "shown", "list": "listed", "name": "named", "stats": "stats", "ping": "pong", "remove": "removed"}

_OF_TYPE: dict[str, Any] = {
    "int": 7,
    "float": 1.5,
    "bool": True,
    "str": "x",
    "null": None,
    "list": [1],
    "object": {"x": 1},
}
_TEXT, _MAY_BE_LEFT_OUT = {"str"}, {"null"}
_TAKES: dict[tuple[str, str], set[str]] = {
    ("submit", "source"): _TEXT,
    ("submit", "name"): _TEXT | _MAY_BE_LEFT_OUT,
    ("submit", "engine"): _TEXT | _MAY_BE_LEFT_OUT,
    ("submit", "language"): _TEXT | _MAY_BE_LEFT_OUT,
    ("run", "hash"): _TEXT | _MAY_BE_LEFT_OUT,
    ("run", "prompt"): _TEXT,
    ("run", "env"): {"object"},
    ("run", "engine"): _TEXT | _MAY_BE_LEFT_OUT,
    ("run", "limits"): {"object"} | _MAY_BE_LEFT_OUT,
    **{("run", f"limits.{field}"): {"int"} | _MAY_BE_LEFT_OUT for field in _LIMITS},
    ("run", "isolation"): _TEXT | _MAY_BE_LEFT_OUT,
    ("run", "stream_logs"): {"bool"},
    ("run", "host_functions"): {"list"} | _MAY_BE_LEFT_OUT,
    ("run a source", "source"): _TEXT | _MAY_BE_LEFT_OUT,
    ("run a source", "language"): _TEXT | _MAY_BE_LEFT_OUT,
    ("cancel", "target"): {"int", "str"},
    ("show", "hash"): _TEXT,
    ("show", "source"): {"bool"},
    ("list", "limit"): {"int"},
    ("list", "after"): _TEXT | _MAY_BE_LEFT_OUT,
    ("name", "name"): _TEXT,
    ("name", "hash"): _TEXT | _MAY_BE_LEFT_OUT,
    ("remove", "hash"): _TEXT,
}
"""The JSON types that each field accepts. All other types are tried."""

_HUGE = 2**70
_OUT_OF_RANGE: dict[tuple[str, str], list[Any]] = {
    ("submit", "name"): ["", "a b", "a\n", "-a", "ä", "x" * 65],
    ("submit", "engine"): ["", "x" * 65, "v8", "QuickJS"],
    ("submit", "language"): ["", "ts"],
    ("run", "hash"): ["", "0" * 129],
    ("run", "engine"): ["v8"],
    ("run", "limits"): [{"x": 1}, {"cpu_ms": 0}],
    **{("run", f"limits.{field}"): [0, -1, 1.0, _HUGE] for field in _LIMITS},
    ("run", "isolation"): ["", "process"],
    ("run", "host_functions"): [[None], [1]],
    ("run a source", "language"): ["ts"],
    ("cancel", "target"): [-1, 1.0, _HUGE, "", "x" * 65],
    ("show", "hash"): ["", "0" * 129],
    ("list", "limit"): [0, -1, 1001, 1.0, _HUGE],
    ("list", "after"): ["0" * 129],
    ("name", "name"): ["", "a b", "x" * 65],
    ("name", "hash"): ["", "0" * 129],
    ("remove", "hash"): ["", "0" * 129],
}

_VALUES = [
    *((*at, value) for at, takes in _TAKES.items() for name, value in _OF_TYPE.items() if name not in takes),
    *((*at, value) for at, values in _OUT_OF_RANGE.items() for value in values),
]


@pytest.fixture(scope="module")
def sock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[socket.socket]:
    """One connection for all requests of this module: no invalid request may close it."""
    with target(tmp_path_factory.mktemp("daemon")) as daemon, daemon.connect() as sock:
        yield sock


def _done(sock: socket.socket, kind: str) -> None:
    """Check that the daemon accepts the valid form of this request."""
    kept, reply = ask(sock, {**RIGHT["submit"], "id": "before"}), ask(sock, {**RIGHT[kind], "id": "right"})
    assert kept[0]["type"] == "submitted", kept
    assert (reply[0]["type"], reply[0]["id"]) == (_REPLIES[kind], "right"), reply
    if kind in ("run", "run a source"):
        assert reply[0]["outcome"]["kind"] == "ok"


def _refused(sock: socket.socket, wrong: dict[str, Any]) -> str:
    """Check that this request is refused as `bad_request` and that the connection stays open. Return the message."""
    kept = ask(sock, {**RIGHT["submit"], "id": "before"})
    error, pong = ask(sock, {"id": "wrong", **wrong})[0], ask(sock, {"type": "ping", "id": "after"})[0]
    assert kept[0]["type"] == "submitted", kept
    assert (error["type"], error.get("id"), error.get("code")) == ("error", "wrong", "bad_request"), error
    assert (pong["type"], pong["id"]) == ("pong", "after")
    return str(error["message"])


@pytest.mark.parametrize(("kind", "field", "value"), _VALUES, ids=lambda value: json.dumps(value)[:24])
def test_a_field_with_an_invalid_value(sock: socket.socket, kind: str, field: str, value: Any) -> None:
    """A value of a wrong type or out of range is refused with the name of its field."""
    _done(sock, kind)
    outer, _, inner = field.partition(".")
    wrong = {**RIGHT[kind], outer: {**RIGHT[kind][outer], inner: value} if inner else value}
    message = _refused(sock, wrong)
    assert f"`$.{field}" in message or f"`{field}`" in message, message


@pytest.mark.parametrize(
    ("kind", "field"),
    [
        ("submit", "source"),
        ("run a source", "source"),
        ("cancel", "target"),
        ("show", "hash"),
        ("remove", "hash"),
        ("name", "name"),
    ],
)
def test_a_missing_field(sock: socket.socket, kind: str, field: str) -> None:
    """A request without a required field is refused with the name of the field."""
    _done(sock, kind)
    message = _refused(sock, {name: value for name, value in RIGHT[kind].items() if name != field})
    assert f"`{field}`" in message


@pytest.mark.parametrize("kind", RIGHT)
def test_an_unknown_field(sock: socket.socket, kind: str) -> None:
    """A request with an unknown field is refused with the name of the field."""
    _done(sock, kind)
    assert "unknown field `promt`" in _refused(sock, {**RIGHT[kind], "promt": "x"})


@pytest.mark.parametrize("type_", ["zap", "", "Ping", "finished", 7, None, True, ["ping"], {"x": 1}])
def test_an_unknown_type(sock: socket.socket, type_: Any) -> None:
    """A request with an unknown type or without a type is refused with the name of that field."""
    _done(sock, "ping")
    assert "type" in _refused(sock, {**RIGHT["ping"], "type": type_})
    assert "type" in _refused(sock, {})


def test_the_tables_name_every_field() -> None:
    """The tables above name every field of every request except `id` and `type`, and no others."""
    fields = {(kind, field) for kind, request in RIGHT.items() for field in request if field != "type"}
    tried = {at for at in _TAKES if "." not in at[1]}
    # A run by source differs from a run by hash in these two fields.
    assert tried == fields
    assert {at[0] for at in _OUT_OF_RANGE} <= set(RIGHT)
    assert len(_VALUES) > 190
