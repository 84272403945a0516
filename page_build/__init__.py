"""Fetches CodeMirror, the code editor of the web page, and puts its modules beside the page.

Deno fetches the packages from npm with the user's own configuration. `deno.lock` has the version and the hash of each
package. Deno checks the hashes, and runs no code of the packages. The modules of the packages are copied. Their imports
by package name become imports by file name, because a browser knows no package names.

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
