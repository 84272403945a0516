"""Aliases: the first 8 digits of a program's hash, as in the URLs of the proof of concept.

An alias belongs to the oldest program whose hash begins with it. So nobody can take over a URL by keeping a program
whose hash begins in the same way.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import TypeVar

from promptlogctl.client import RequestRefused

_R = TypeVar("_R")
ALIAS = re.compile(r"[0-9a-f]{8}\Z")


async def through_alias(reference: str, ask: Callable[[str], Awaitable[_R]]) -> _R:
    """Ask about a program; if its alias is ambiguous, about the oldest one that it means. Raises what `ask` raises."""
    try:
        return await ask(reference)
    except RequestRefused as refused:
        oldest = _oldest(reference, refused)
        if oldest is None:
            raise
    return await ask(oldest)


def _oldest(reference: str, refused: RequestRefused) -> str | None:
    """Return the first of the matches that a refusal tells, which the daemon lists by age."""
    if refused.code != "ambiguous" or not ALIAS.match(reference):
        return None
    matches = refused.detail.get("matches")
    return str(matches[0]) if isinstance(matches, list) and matches else None
