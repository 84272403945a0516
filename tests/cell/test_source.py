"""What is made of a program's text in the jail: pure functions, tried outside of it."""

from __future__ import annotations

import pytest

from sandbox.engines.quickjs.jail.source import exports, place, without_nul


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("export default 1", (1, 1, True)),
        ("const a = 1;\n  export { a as default }", (2, 3, True)),
        ("const a=1;export default a", (1, 11, False)),
        ("é;export default 1", (1, 4, False)),
        ("const s = ' export default 1';\nexport default s", (2, 1, True)),
        ("const exported = 1", None),
        ("return 'export'", None),
        ("", None),
    ],
)
def test_exports_makes_a_text_look_like_a_module(source: str, found: tuple[int, int, bool] | None) -> None:
    """The first export that opens its line, else the first at all; columns count bytes."""
    assert exports(source) == found


@pytest.mark.parametrize(
    ("source", "escaped"),
    [("a", "a"), ("'\0'", "'\\x00'"), ("'\\\0'", "'\\x00'"), ("'\\\\\0'", "'\\\\\\x00'"), ("\0\0", "\\x00\\x00")],
)
def test_a_nul_byte_is_written_as_its_escape(source: str, escaped: str) -> None:
    """Behind an odd number of backslashes the last of them is the NUL's own, and goes."""
    assert without_nul(source) == escaped


@pytest.mark.parametrize(
    ("stack", "found"),
    [
        ("    at eval_script:3:14\n    at x", (3, 14)),
        ("    at eval_script", (0, 0)),
        ("at a:b:c", (0, 0)),
        (None, (0, 0)),
    ],
)
def test_a_parser_error_has_its_place_in_the_first_line(stack: str | None, found: tuple[int, int]) -> None:
    """Anything but a line and a column is no place."""
    error = ValueError()
    error.stack = stack  # type: ignore[attr-defined]
    assert place(error) == found
