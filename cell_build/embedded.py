"""C headers with data for the executable: promptlog's own scripts, and the second seccomp filter."""

import hashlib
import runpy
from collections.abc import Iterable, Mapping
from pathlib import Path

ENGINES = "sandbox/engines"
SCRIPTS = {
    # In the order of evaluation: each uses names of those before it.
    "prelude": (
        *(
            f"quickjs/jail/{name}.js"
            for name in ("webidl", "encoding", "headers", "search_params", "url", "web", "locale", "normalize")
        ),
        *(f"jail/{name}.js" for name in ("inspect", "format", "console", "contract")),
        "quickjs/jail/prelude.js",
    ),
    "builtins": ("quickjs/jail/builtins.js",),
}
FILTER = "quickjs/host/filter.py"
BYTECODE = "quickjs/jail/scripts.bytecode"
"""The compiled scripts.

The first line is a digest of the scripts and of the engine. Then each script has its size (4 bytes) and its bytecode.
`make placement` writes the file. A build can't, because it executes nothing that it fetched.
"""


def headers(root: Path, architecture: str, engine: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the headers that promptlog's C files include, made from the files of this source tree.

    scripts.h has the text of the scripts, and also their bytecode if it was made from this text by this engine.
    """
    instructions = runpy.run_path(str(root / ENGINES / FILTER))["instructions"](architecture)
    texts = _texts(root)
    scripts = _arrays(texts)
    compiled = bytecode(root, engine)
    if compiled is not None:
        # The variant that compiles the scripts needs their text.
        scripts = b"#ifndef COMPILE\n#define SCRIPTS_ARE_BYTECODE\n%b#else\n%b#endif\n" % (_arrays(compiled), scripts)
    return {
        "scripts.h": scripts,
        "filter.h": _array("struct sock_filter second_filter", (f"{{{', '.join(map(str, i))}}}" for i in instructions)),
    }


def bytecode_file(root: Path, engine: Mapping[str, bytes], compiled: bytes) -> bytes:
    """Return the content of the bytecode file."""
    return _first_line(root, engine) + compiled


def bytecode(root: Path, engine: Mapping[str, bytes]) -> dict[str, bytes] | None:
    """Return the bytecode of the scripts, or None if it was made from other scripts or by another engine."""
    data = (root / ENGINES / BYTECODE).read_bytes()
    first_line = _first_line(root, engine)
    if not data.startswith(first_line):
        return None
    found = {}
    at = len(first_line)
    for name in SCRIPTS:
        size = int.from_bytes(data[at : at + 4])
        found[name] = data[at + 4 : at + 4 + size]
        at += 4 + size
    return found


def _texts(root: Path) -> dict[str, bytes]:
    """Return each script in a block, so that its names do not collide with a program's. The last byte is 0."""
    return {
        name: b"{" + b"".join((root / ENGINES / path).read_bytes() for path in paths) + b"\n}\0"
        for name, paths in SCRIPTS.items()
    }


def _first_line(root: Path, engine: Mapping[str, bytes]) -> bytes:
    digest = hashlib.sha256()
    for name, data in sorted((_texts(root) | dict(engine)).items()):
        digest.update(f"{name} {hashlib.sha256(data).hexdigest()}\n".encode())
    return f"promptlog scripts {digest.hexdigest()}\n".encode()


def _arrays(scripts: Mapping[str, bytes]) -> bytes:
    return b"".join(_array(f"char {name}", _signed(data)) for name, data in scripts.items())


def _signed(data: bytes) -> Iterable[str]:
    """Return each byte as a C character literal, because `char` is signed on some machines only."""
    return (f"'\\x{byte:02x}'" for byte in data)


def _array(declaration: str, members: Iterable[str]) -> bytes:
    return f"static const {declaration}[] = {{\n{','.join(members)}\n}};\n".encode()
