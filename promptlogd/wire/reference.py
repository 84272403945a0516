"""Generate docs/protocol.md from the messages: `python -m promptlogd.wire.reference`."""

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
from sandbox import limits, outcome, program

_CODES = {
    "bad_request": "The request is malformed, has an unknown field or type, or asks for a limit that is out of range; "
    "or a submitted program has a syntax error.",
    "not_found": "There is no such program or name; or the program is damaged on disk, and was moved to `damaged/`.",
    "ambiguous": "The prefix matches several hashes. `detail.matches` has up to ten of them.",
    "too_large": "A frame, source, prompt or env exceeds its maximum size; or the check of a program reached a limit.",
    "busy": "The queue is full, or no slot became free in time. The run has not started: try again after "
    "`detail.retry_after_ms`.",
    "quota": "This user or tenant has used up the quota `detail.quota`. Try again after `detail.retry_after_ms`.",
    "forbidden": "This client does not have the right `detail.right`, or may not name a tenant.",
    "shutting_down": "The daemon is stopping.",
    "unsupported": "This daemon does not support it, for example because an engine is disabled or not installed.",
    "internal": "The daemon or its host failed. The daemon's log has the details.",
}

_INTRODUCTION = """# The protocol, version {version}

This page describes the messages between a client and the daemon, for authors of clients. `make docs` generates it from
`promptlogd/wire/messages.py`; do not edit it.

The daemon listens on a Unix stream socket. [daemon.md](daemon.md) has its default path.

A client sends requests. It chooses an `id` for each, and every reply has the id of its request. The client may reuse an
id after the request was answered. A client that shuts down only its writing side still receives its replies.

Requests may be pipelined. The daemon processes them concurrently, and sends each reply when it is ready, in any order.
If a request depends on another (for example a run by a name that a submit creates), wait for the reply to the first.

## Two encodings

The first byte of a connection selects the encoding. The daemon replies in the same encoding. A frame is one encoded
message. It has at most {cap} bytes.

- **JSON lines**, if the first byte other than white space is `{{`. Each message is one line, terminated by `\\n`.
- **MessagePack** otherwise. Each message is one map, preceded by its length as a 4-byte big-endian integer.

`ping` with id 1 in MessagePack, then in JSON:

```
{hex}
{json}
```

**JSON values** are the `env` of a run and the `value` of an `ok` outcome. In JSON lines, they are part of the JSON
message. In MessagePack, they are a str that contains the JSON text. The text of a `value` is byte for byte what the
program serialised.

**Errors.** If the daemon cannot decode a frame but can read its id, it replies with an `error` that has this id. If it
cannot read the id, it sends an `error` without id and closes the connection. The daemon also closes the connection if
the rest of a frame does not arrive within 10 s, or if the client does not read replies for 10 s (`server.stall_s` in
[config.md](config.md)).

## Examples

From a shell, with socat (without `-t 35`, socat waits only half a second for the reply, but a run may take 30 s):

```
printf '%s\\n' '{{"type":"run","id":1,"source":"const result = prompt.length","prompt":"abc"}}' \\
    | socat -t 35 - UNIX-CONNECT:/run/promptlog/promptlog.sock
```

From Python, with the standard library:

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

## Compatibility

`ping` returns the version of the daemon and the version of the protocol. The protocol version changes when an existing
client would misunderstand the daemon. New messages, optional fields, reply fields, error codes and outcome kinds do not
change it. So a client must ignore reply fields that it does not know, and must expect unknown codes and kinds. The
daemon refuses unknown fields in requests.

The daemon omits reply fields that have their default value. A client may omit request fields in the same way.
"""

_TENANT = """Every request may also have the fields `tenant` and `manage`. Only a front may send a `tenant`: a process
of the daemon's user, or of a user in `server.fronts` of the configuration. The daemon refuses it from other clients
with the error `forbidden`.

| field | type | default | |
|---|---|---|---|
| `tenant` | `Tenant \\| None` | `None` | The tenant on whose behalf the front sends the request. |
| `manage` | `bool` | `False` | With `tenant`: whether the tenant has the right `manage` ([access.md](access.md)). |
"""

_ANSWERS = {
    "Submit": "submitted", "Run": "log*, finished", "Cancel": "cancelling", "Show": "shown", "List": "listed",
    "Remove": "removed", "Label": "named", "Stats": "stats", "ReadJournal": "entries",
    "JournalStats": "journal_sums", "Config": "config", "Collect": "collected", "Verify": "verified",
    "Backup": "backed_up", "Ping": "pong",
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
    """Return the text of docs/protocol.md."""
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
    parts += [*_types(messages), *(line for line in _types(program) if "`Language`" in line), *_types(outcome)]
    parts.append("")
    parts += _section("LimitsAsked", here["LimitsAsked"], messages.LimitsAsked)
    for title, base in (("Requests", messages._Request), ("Replies", messages._Reply)):
        parts.append(f"## {title}\n")
        if title == "Requests":
            parts.append(_TENANT)
        for name, node in here.items():
            kind = getattr(messages, name)
            if not name.startswith("_") and (issubclass(kind, base) or (title == "Replies" and name == "Error")):
                parts += _section(name, node, kind)
    parts.append("### Parts of replies\n")
    for name in (
        *(
            "NameChange",
            "HolderInfo",
            "Listing",
            "PoolStats",
            "EngineStats",
            "Histogram",
            "JournalCounts",
            "JournalEntry",
        ),
        *("JournalSum", "SettingInfo", "CollectedProgram", "DamagedPart"),
    ):
        parts += _section(name, here[name], getattr(messages, name), "####")
    for name in ("LogLine", "Usage"):
        parts += _section(name, there[name], getattr(outcome, name), "####")
    parts += _section("Limits", _classes(limits)["Limits"], limits.Limits, "####")
    parts.append("## Outcomes\n\nThe `outcome` of a `finished` reply is a map. Its `kind` is one of these:\n")
    for name, node in there.items():
        if issubclass(getattr(outcome, name), outcome._Record) and not name.startswith("_"):
            parts += _section(name, node, getattr(outcome, name))
    parts.append("## Error codes\n\n| code | when |\n|---|---|")
    parts += [f"| `{code}` | {when} |" for code, when in _CODES.items()]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    print(protocol_reference(), end="")
