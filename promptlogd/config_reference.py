"""Generate docs/config.md from the settings: `python -m promptlogd.config_reference`."""

from __future__ import annotations

import ast
import inspect
from typing import Annotated, get_args

import msgspec
from msgspec import Meta, json

from promptlogd import config
from promptlogd.settings import is_reloaded
from sandbox.engines import ENGINES

_NAMED = {"AbsolutePath": config.AbsolutePath, "Positive": config.Positive, "Seconds": config.Seconds}
_LISTS = {
    "Annotated[list[User]": "list of uids and names of users",
    "Members": 'list of users, `"@GROUP"` and `"*"`',
    "Annotated[list[QuotaRule]": "tables",
    "Annotated[list[Annotated[str,": "list of strings",
}
_LIKE_USER = ("quotas.tenant", "[quotas.rules]")
"""Sections whose settings are described in another."""
_EXAMPLE = """## An example

```toml
[server]
socket_mode = "0660"

[limits.default]
cpu_ms = 100

[pool]
cells = 8
```"""


def _plain(annotation: str) -> str:
    """Return a readable form of a type: `Annotated[int, Meta(ge=1, le=5)]` is "whole number from 1 to 5"."""
    annotation = annotation.removesuffix(" | None")
    if annotation.startswith("Literal["):
        return " or ".join(f"`{json.encode(value).decode()}`" for value in ast.literal_eval(annotation[7:]))
    if annotation == "Engine":
        return " or ".join(f'`"{name}"`' for name in ENGINES)
    if annotation == "JournalText":
        return ", ".join(f"`{json.encode(value).decode()}`" for value in get_args(config.JournalText))
    if annotation == "bool":
        return "`true` or `false`"
    for begin, words in _LISTS.items():
        if annotation.startswith(begin):
            return words
    if annotation.startswith("list["):
        return f"list of: {_plain(annotation[5:-1])}"
    kind = _NAMED.get(annotation) or eval(annotation, {"Annotated": Annotated, "Meta": Meta})
    meta = getattr(kind, "__metadata__", (Meta(),))[0]
    words = {int: "whole number", float: "number", str: "string"}[getattr(kind, "__origin__", kind)]
    if meta.gt is not None:
        words += f" over {meta.gt}"
    if meta.ge is not None:
        words += f" from {meta.ge}"
    if meta.le is not None:
        words += f" to {meta.le}"
    return words


def config_reference() -> str:
    """Return the text of docs/config.md."""
    tree = ast.parse(inspect.getsource(config))
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    lines = [
        "# Settings",
        "",
        "`promptlogd --config FILE` reads settings from a TOML file. All settings are optional. Unknown settings are",
        "refused. Files that end in .toml in the folder `FILE.d` override FILE, in the order of their names.",
        "`promptlogd --config FILE --check-config` checks all of these files. `promptlogctl config` shows the values",
        "in force, and where each came from.",
        "",
        "On SIGHUP, the daemon reads the files again, and changes the settings with `yes` in the column `reload`.",
        "Connections and runs continue. Connections that are already open keep `max_pipelined`, `stall_s`, `fronts`",
        "and the maximum sizes of texts. The other settings take effect at a restart. If a file has an error, the",
        "daemon logs it and changes nothing.",
        "",
        "`make docs` generates this page from `promptlogd/config.py`; do not edit it.",
        "",
    ]

    def section(path: str, node: ast.ClassDef, values: msgspec.Struct) -> None:
        nested: list[tuple[str, ast.ClassDef, msgspec.Struct]] = []
        tables: list[tuple[str, ast.ClassDef, msgspec.Struct]] = []
        lines.extend([f"## `[{path}]`", "", ast.get_docstring(node) or "", ""])
        if path in _LIKE_USER:
            lines.extend(["This section has the same settings as `[quotas.user]`.", ""])
        if path == "quotas.tenant":
            return
        lines.extend(["| setting | type and bounds | default | reload | |", "|---|---|---|---|---|"])
        bases = [] if path in _LIKE_USER else node.bases
        inherited = [classes[base.id] for base in bases if isinstance(base, ast.Name) and base.id in classes]
        body = [statement for each in (node, *inherited) for statement in each.body]
        for index, statement in enumerate(body):
            if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
                continue
            kind, field = ast.unparse(statement.annotation), statement.target.id
            if kind in classes:
                nested.append((f"{path}.{field}", classes[kind], getattr(values, field)))
                continue
            following = body[index + 1] if index + 1 < len(body) else None
            if kind.startswith("Annotated[list[QuotaRule]"):
                tables.append((f"[{path}.{field}]", classes["QuotaRule"], config.QuotaRule()))
            text = ""
            if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
                text = inspect.cleandoc(str(following.value.value))
            default = getattr(values, field)
            shown = "" if default is None else f"`{json.encode(default).decode()}`"
            reload = "yes" if is_reloaded(f"{path}.{field}") or path == "[quotas.rules]" else ""
            cells = (f"`{field}`", _plain(kind), shown, reload, text)
            lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
        lines.append("")
        for place, inner, default in nested + tables:
            section(place, inner, default)

    for statement in classes["Config"].body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            field = statement.target.id
            section(field, classes[ast.unparse(statement.annotation)], getattr(config.Config(), field))
    lines.append(_EXAMPLE)
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    print(config_reference(), end="")
