"""How a QuickJS cell classifies a source: a body, a module, or an error with its reason."""

from __future__ import annotations

import msgspec
import pytest

from sandbox.cells.plan import Plan
from sandbox.outcome import Ok, ProgramSyntaxError
from sandbox.protocol.events import Checked
from sandbox.protocol.frames import Task
from tests.cell.cells import a_cell, run_on, until_blank

NO_DEFAULT = "a module needs a default export: a function (prompt, env) => value, or an object with fetch(request, env)"
NO_IMPORT = "a program cannot import other modules"

FORMS = (
    ("export default 1", True),
    ("const a = 1;\n  export { a as default }", True),
    ("const a=1;export default a", True),
    ("é;export default 1", True),
    ("const s = ' export default 1';\nexport default s", True),
    ("const exported = 1", False),
    ("return 'export'", False),
    ("// export default 1", False),
    ("", False),
)

REFUSED = (
    ("const a=1;export { a }", NO_DEFAULT, 1, 11),
    ("'é';export {}", NO_DEFAULT, 1, 5),  # columns count UTF-16 code units
    ("const s = ' export const b = 1';\n\texport const a = s", NO_DEFAULT, 2, 2),
    ("export default 1;\n  import x from 'y'", NO_IMPORT, 2, 17),
    ('import {\n  a\n} from "it\'s"; export { a as default }', NO_IMPORT, 3, 8),
    ("export default 'y'.length;\nexport * from 'y'", NO_IMPORT, 1, 16),  # the same text also occurs in quotes
    ("import a from './y.js'; export { a as default }", NO_IMPORT, 1, 15),
    ("const b = 'x' + 'y.js';\nexport { a as default } from '../y.js'", NO_IMPORT, 2, 30),
    ("import x from 'y'\nreturn x", NO_IMPORT, 1, 1),
    ("export default (", "Unexpected end of input", 1, 17),
    ("return (", "Unexpected end of input", 1, 9),
    ("}", "Unexpected token '}'", 1, 1),
    ("a();\n} ", "Unexpected token '}'", 2, 1),
    ("[" * 100_000, "it is nested too deeply", None, None),
)


async def test_a_source_is_a_body_or_a_module(plan: Plan) -> None:
    """A source that parses as a body is one; otherwise it must parse as a module and export something."""
    async with a_cell(plan) as cell:
        for source, module in FORMS:
            result = await run_on(cell, source, task=Task.CHECK)
            assert result.outcome == Checked(module=module, code=None), source
            await until_blank(cell)


async def test_invalid_sources_have_a_reason_and_a_place(plan: Plan) -> None:
    """The place is that of an export at the start of a line, before others that may be inside a string."""
    async with a_cell(plan) as cell:
        for source, message, line, column in REFUSED:
            result = await run_on(cell, source, task=Task.CHECK)
            assert result.outcome == ProgramSyntaxError(message=message, line=line, column=column), source[:80]
            await until_blank(cell)


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("return 'a\0b'.length", 3),
        ("return '\\\0'.charCodeAt(0)", 0),
        ("return `\0\0`.length", 2),
        ("return /\0/.test('\\0')", True),
        ("/* \0 */ return 1 // \0", 1),
    ],
)
async def test_a_nul_character_does_not_end_the_source(plan: Plan, source: str, value: object) -> None:
    """A NUL character is an ordinary character of the text."""
    async with a_cell(plan) as cell:
        outcome = (await run_on(cell, source)).outcome
        assert isinstance(outcome, Ok)
        assert msgspec.json.decode(outcome.value) == value
