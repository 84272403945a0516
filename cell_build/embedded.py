"""What the executable holds beside code: promptlog's own scripts, and the second seccomp filter, as C headers."""

import hashlib
import runpy
from collections.abc import Iterable, Mapping
from pathlib import Path

ENGINES = "sandbox/engines"
SCRIPTS = {
    # In the order of evaluation: each uses what is before it.
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
"""The scripts compiled. The first line says from what; then come, for each script, its size (4 bytes) and its bytecode.

`make placement` writes it. A build cannot, since it runs nothing of what it fetches.
"""


def headers(root: Path, architecture: str, engine: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the headers that promptlog's C files include, made of the files of this source tree.

    scripts.h has the scripts' text, and their bytecode as well if it was made of this text by this engine.
    """
    instructions = runpy.run_path(str(root / ENGINES / FILTER))["instructions"](architecture)
    texts = _texts(root)
    scripts = _arrays(texts)
    compiled = bytecode(root, engine)
    if compiled is not None:
        # The variant that compiles the scripts has to have their text.
        scripts = b"#ifndef COMPILE\n#define SCRIPTS_ARE_BYTECODE\n%b#else\n%b#endif\n" % (_arrays(compiled), scripts)
    return {
        "scripts.h": scripts,
        "filter.h": _array("struct sock_filter second_filter", (f"{{{', '.join(map(str, i))}}}" for i in instructions)),
    }


def bytecode_file(root: Path, engine: Mapping[str, bytes], compiled: bytes) -> bytes:
    """Return what belongs into the file of the scripts' bytecode."""
    return _first_line(root, engine) + compiled


def bytecode(root: Path, engine: Mapping[str, bytes]) -> dict[str, bytes] | None:
    """Return the scripts' bytecode; None if it was made of other scripts, or by another engine."""
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
    """Each script in a block, so that its names are not those of programs. The last byte is 0."""
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
    """Each byte as a C char, which is signed or not by the machine."""
    return (f"'\\x{byte:02x}'" for byte in data)


def _array(declaration: str, members: Iterable[str]) -> bytes:
    return f"static const {declaration}[] = {{\n{','.join(members)}\n}};\n".encode()
