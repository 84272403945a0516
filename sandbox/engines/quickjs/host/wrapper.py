"""The wrapper that the daemon puts around a program for QuickJS. The jailed process receives it with each job.

A program becomes the body of an async function, which prelude.js calls.
"""

from __future__ import annotations

import hashlib

# A body that parses in all three of these wrappers cannot close any of them. Proof: suppose that the body closes the
# wrapper's brace with a `}`. It is the same `}` in each wrapper, because the text before it parses in the same way. The
# token after it must be an operator, a comma or `)` in the first (never `}`); a comma or `}` in the second; and a class
# member, `;` or `}` in the third. No token satisfies all three.
CHECKS = (
    ('(async function (prompt, env) {"use strict";\n', "\n})"),
    ('({async program(prompt, env) {"use strict";\n', "\n}})"),
    ("(class {async program(prompt, env) {\n", "\n}})"),
)

# Not closed, so that an error at the end of a body is reported with a position in its own text.
LOOSE = 'async function __promptlog_loose(prompt, env) {"use strict";\n'

BODY = (
    '(async function (prompt, env) {"use strict";\n',
    '\n;return typeof result === "undefined" ? void 0 : result;\n})',
)

BRACKETS = "\0".join([text for bracket in CHECKS for text in bracket] + [LOOSE, *BODY])
"""All wrappers, in the format of a check's job: three pairs, the unclosed one, and the pair for the body."""

DIGEST = hashlib.sha256("\0".join(BODY).encode()).hexdigest()[:8]
"""Part of the build of artifacts, because bytecode contains the wrapper."""
