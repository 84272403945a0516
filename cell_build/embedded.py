"""What the executable holds beside code: promptlog's own scripts, and the second seccomp filter, as C headers."""

import runpy
from collections.abc import Iterable
from pathlib import Path

ENGINES = "sandbox/engines"
SCRIPTS = {
    # In the order of evaluation: each uses what is before it.
    "prelude_script": (
        *(
            f"quickjs/jail/{name}.js"
            for name in ("webidl", "encoding", "headers", "search_params", "url", "web", "locale", "normalize")
        ),
        *(f"jail/{name}.js" for name in ("inspect", "format", "console", "contract")),
        "quickjs/jail/prelude.js",
    ),
    "builtins_script": ("quickjs/jail/builtins.js",),
}
FILTER = "quickjs/host/filter.py"


def headers(root: Path, architecture: str) -> dict[str, bytes]:
    """Return the headers that promptlog's C files include, made of the files of this source tree."""
    engines = root / ENGINES
    scripts = {name: b"".join((engines / path).read_bytes() for path in paths) for name, paths in SCRIPTS.items()}
    instructions = runpy.run_path(str(engines / FILTER))["instructions"](architecture)
    return {
        "scripts.h": b"".join(_script(name, text) for name, text in scripts.items()),
        "filter.h": _array("struct sock_filter second_filter", (f"{{{', '.join(map(str, i))}}}" for i in instructions)),
    }


def _script(name: str, text: bytes) -> bytes:
    """A script in a block, so that its names are not those of programs. The last byte is 0."""
    return _array(f"char {name}", map(str, b"{" + text + b"\n}\0"))


def _array(declaration: str, members: Iterable[str]) -> bytes:
    return f"static const {declaration}[] = {{\n{','.join(members)}\n}};\n".encode()
