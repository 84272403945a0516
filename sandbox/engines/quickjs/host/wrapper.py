"""The texts that the daemon puts around a program for QuickJS. The jailed process gets them with each job.

A program becomes the body of an async function, which prelude.js calls.
"""

from __future__ import annotations

import hashlib

# A body that parses between all three of these brackets closes none of them. Let `}` be the first brace that closes the
# wrapper's: it is the same one in each, since up to it they read alike. What follows it must be an operator, a comma or
# `)` in the first, never `}`; a comma or `}` in the second; a class member, `;` or `}` in the third. No token is all of
# that.
CHECKS = (
    ('(async function (prompt, env) {"use strict";\n', "\n})"),
    ('({async program(prompt, env) {"use strict";\n', "\n}})"),
    ("(class {async program(prompt, env) {\n", "\n}})"),
)

# Not closed, so that an error in a body that shows only at its end is reported in its own text.
LOOSE = 'async function __promptlog_loose(prompt, env) {"use strict";\n'

BODY = (
    '(async function (prompt, env) {"use strict";\n',
    '\n;return typeof result === "undefined" ? void 0 : result;\n})',
)

BRACKETS = "\0".join([text for bracket in CHECKS for text in bracket] + [LOOSE, *BODY])
"""All of them, as a job that checks a source carries them: three pairs, the one that is not closed, the body's pair."""

DIGEST = hashlib.sha256("\0".join(BODY).encode()).hexdigest()[:8]
"""Part of the build of artifacts, because bytecode contains the wrapper."""
