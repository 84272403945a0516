"""Write docs/protocol.md from the messages themselves: `python -m promptlogd.wire.reference`."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from itertools import pairwise

import msgspec

from promptlogd.wire import messages
from promptlogd.wire.framing import MAX_FRAME_BYTES
from promptlogd.wire.messages import PROTOCOL_VERSION
from promptlogd.wire.session import ClientSession
from sandbox import outcome

_CODES = {
    "bad_request": "malformed, unknown fields or types, limits out of range, a program that does not parse",
    "not_found": "no such program or name; also one found damaged on disk, which is set aside then",
    "ambiguous": "a prefix of several hashes; `detail.matches` has up to ten",
    "too_large": "a frame, source, prompt or env over its cap",
    "busy": "the queue is full, or no slot became free in time; try again",
    "forbidden": "this client may not",
    "shutting_down": "the daemon is stopping",
    "unsupported": "known to the protocol, not to this daemon",
    "internal": "the daemon or its host failed; its log says how",
}

_INTRODUCTION = """# The protocol, version {version}

Generated from `promptlogd/wire/messages.py` by `make docs`; do not edit.

promptlogd listens on a stream Unix socket: `/run/promptlog/promptlog.sock` for root, else
`$XDG_RUNTIME_DIR/promptlog/promptlog.sock` (`~/.local/state/promptlog/promptlog.sock` where that is not set), or what
`--socket` says. A client sends requests, each with an `id` that it chooses; every reply carries that id. Requests may
be pipelined. They are handled side by side, and replies come when they are ready, in any order: what needs another's
effect (a run by a name that a submit gives) waits for its reply. An id may be used again once its request was
answered. A client that closes only its writing side still gets its replies.

## Two encodings

If the first byte of a connection is `{{` (white space may stand before it), it is **JSON lines**: one message a line,
ended by `\\n`. Otherwise it is **MessagePack**: each message is one map behind a 4-byte big-endian length. The daemon
answers in kind. A frame is {cap} bytes at the most.

`ping` with id 1 in MessagePack, then in JSON:

```
{hex}
{json}
```

**JSON values** (a run's `env`, the `value` of an `ok` outcome) stand in a JSON message as they are; in MessagePack they
are a str that holds the JSON text, byte for byte as the program serialised it.

A frame that is wrong is answered with an `error` if its id can be read. Otherwise there is an `error` without id, and
the connection is closed, as it is when the rest of a frame does not come within 10 s, or replies are not read for 10 s.

A shell can be a client, if socat is installed (without `-t 35` it waits half a second for the answer, and a run may
take 30 s):

```
printf '%s\\n' '{{"type":"run","id":1,"source":"const result = prompt.length","prompt":"abc"}}' \\
    | socat -t 35 - UNIX-CONNECT:/run/promptlog/promptlog.sock
```

and so can Python, with nothing but its standard library:

```python
import json, socket

with socket.socket(socket.AF_UNIX) as sock:
    sock.connect("/run/promptlog/promptlog.sock")
    stream = sock.makefile("rw", encoding="utf-8")
    request = {{"type": "run", "id": 1, "source": "const result = prompt.length", "prompt": "abc"}}
    stream.write(json.dumps(request) + "\\n")
    stream.flush()
    print(json.loads(stream.readline())["outcome"])  # {{'kind': 'ok', 'value': 3}}
```

`ping` answers the daemon's version and the protocol's. The protocol's goes up when an existing client would
misunderstand the daemon. New messages, new optional fields, new fields in replies, new error codes and new outcome
kinds do not count: a client passes over fields that it does not know. In replies, as in requests, a field that has its
default is left out.
"""

_ANSWERS = {
    "Submit": "submitted", "Run": "log*, finished", "Cancel": "cancelling", "Show": "shown", "List": "listed",
    "Remove": "removed", "Label": "named", "Stats": "stats", "Config": "config",
    "Ping": "pong",
}  # fmt: skip


def _classes(module: object) -> dict[str, ast.ClassDef]:
    tree = ast.parse(inspect.getsource(module))  # type: ignore[arg-type]
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}


def _types(module: object) -> Iterator[str]:
    tree = ast.parse(inspect.getsource(module))  # type: ignore[arg-type]
    for statement, following in pairwise(tree.body):
        match statement, following:
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=value),
                ast.Expr(value=ast.Constant(value=str(text))),
            ) if not name.isupper():
                yield f"- `{name}` = `{ast.unparse(value)}`: {text}"


def _section(name: str, node: ast.ClassDef, kind: type[msgspec.Struct], level: str = "###") -> Iterator[str]:
    tag = kind.__struct_config__.tag
    yield f"{level} `{tag or name}`\n"
    yield (ast.get_docstring(node) or "") + "\n"
    if name in _ANSWERS:
        yield f"Answered by: `{_ANSWERS[name]}`, or `error`.\n"
    rows = list(_fields(node))
    if issubclass(kind, messages._Request | messages._Reply):
        rows.insert(0, ("id", "Id", "required", ""))
    if rows:
        yield "| field | type | default | |\n|---|---|---|---|"
        for row in rows:
            yield "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |"
        yield ""


def _fields(node: ast.ClassDef) -> Iterator[tuple[str, str, str, str]]:
    for index, statement in enumerate(node.body):
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        default = "required" if statement.value is None else f"`{ast.unparse(statement.value)}`"
        if default == "`NO_ENV`":
            default = "`{}`"
        following = node.body[index + 1] if index + 1 < len(node.body) else None
        text = ""
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            text = inspect.cleandoc(str(following.value.value))
        kind = ast.unparse(statement.annotation).replace("msgspec.Raw", "JSON")
        yield f"`{statement.target.id}`", f"`{kind}`", default, text


def protocol_reference() -> str:
    """Return docs/protocol.md."""
    ping = messages.Ping(id=1)
    parts = [
        _INTRODUCTION.format(
            version=PROTOCOL_VERSION,
            cap=MAX_FRAME_BYTES,
            hex=ClientSession(encoding="msgpack").send(ping).hex(" "),
            json=ClientSession(encoding="json").send(ping).decode().strip(),
        )
    ]
    here, there = _classes(messages), _classes(outcome)
    parts.append("## Types\n")
    parts += [*_types(messages), *_types(outcome)]
    parts.append("")
    parts += _section("LimitsAsked", here["LimitsAsked"], messages.LimitsAsked)
    for title, base in (("Requests", messages._Request), ("Replies", messages._Reply)):
        parts.append(f"## {title}\n")
        for name, node in here.items():
            kind = getattr(messages, name)
            if not name.startswith("_") and (issubclass(kind, base) or (title == "Replies" and name == "Error")):
                parts += _section(name, node, kind)
    parts.append("### Parts of replies\n")
    for name in ("NameChange", "Listing", "PoolStats", "SettingInfo"):
        parts += _section(name, here[name], getattr(messages, name), "####")
    for name in ("LogLine", "Usage"):
        parts += _section(name, there[name], getattr(outcome, name), "####")
    parts.append("## Outcomes\n\nThe `outcome` of a `finished` reply is a map with its `kind`, one of these.\n")
    for name, node in there.items():
        if issubclass(getattr(outcome, name), outcome._Record) and not name.startswith("_"):
            parts += _section(name, node, getattr(outcome, name))
    parts.append("## Error codes\n\n| code | when |\n|---|---|")
    parts += [f"| `{code}` | {when} |" for code, when in _CODES.items()]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    print(protocol_reference(), end="")
