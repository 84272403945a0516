"""Fetches the code editor of the page that tries programs, CodeMirror, and puts its modules beside the page.

Its packages come from npm, through Deno, with the user's own configuration. `deno.lock` has the version and the hash
of each. Deno checks the hashes, and runs nothing of the packages. The packages' modules are copied; their imports by
package name become imports by file name, since a browser knows no package names.

Without Deno or npm the page has a plain text field instead.
"""

from page_build.editor import (
    DENO_REQUIREMENT,
    FOLDER,
    LICENSES,
    VARIABLE,
    EditorError,
    cache_place,
    cached,
    copy_to,
    fetch,
    find_or_fetch,
    modules_of,
    requirements,
)

__all__ = [
    "DENO_REQUIREMENT",
    "FOLDER",
    "LICENSES",
    "VARIABLE",
    "EditorError",
    "cache_place",
    "cached",
    "copy_to",
    "fetch",
    "find_or_fetch",
    "modules_of",
    "requirements",
]
