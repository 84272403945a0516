"""Time-outs for tests that use trio's clock, so that they end whatever they wait for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import ParamSpec

import trio

_P = ParamSpec("_P")


def within_a_minute(test: Callable[_P, Awaitable[None]]) -> Callable[_P, Awaitable[None]]:
    """Make a test fail after a minute of trio's time, which passes at once with an autojump clock."""

    @wraps(test)
    async def ending(*args: _P.args, **kwargs: _P.kwargs) -> None:
        with trio.fail_after(60):
            await test(*args, **kwargs)

    return ending
