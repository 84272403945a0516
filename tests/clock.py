"""Tests whose time is trio's: they end, whatever they wait for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import ParamSpec

import trio

_P = ParamSpec("_P")


def within_a_minute(test: Callable[_P, Awaitable[None]]) -> Callable[_P, Awaitable[None]]:
    """Let a test whose runs never get their turn fail, at once where the clock jumps."""

    @wraps(test)
    async def ending(*args: _P.args, **kwargs: _P.kwargs) -> None:
        with trio.fail_after(60):
            await test(*args, **kwargs)

    return ending
