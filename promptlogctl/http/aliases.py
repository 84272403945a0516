"""Aliases in URLs: the first 8 digits of a program's hash.

An alias belongs to the oldest program whose hash starts with it. So nobody can take over a URL by storing a program
whose hash has the same prefix.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import TypeVar

from promptlogctl.client import RequestRefused

_R = TypeVar("_R")
ALIAS = re.compile(r"[0-9a-f]{8}\Z")


def through_alias(reference: str, ask: Callable[[str], Awaitable[_R]]) -> Awaitable[_R]:
    """Call `ask` for a program. If its alias is ambiguous, use the oldest program. Raises the exceptions of `ask`."""
    return _ask_oldest(reference, ask) if ALIAS.match(reference) else ask(reference)


async def _ask_oldest(alias: str, ask: Callable[[str], Awaitable[_R]]) -> _R:
    try:
        return await ask(alias)
    except RequestRefused as refused:
        oldest = _oldest(refused)
        if oldest is None:
            raise
    return await ask(oldest)


def _oldest(refused: RequestRefused) -> str | None:
    """Return the first of the matches in an error, which the daemon sorts by age."""
    if refused.code != "ambiguous":
        return None
    matches = refused.detail.get("matches")
    return str(matches[0]) if isinstance(matches, list) and matches else None
