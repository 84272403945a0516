"""A few cases of a long table for `make test`, where another test has all of it; `make test-long` has the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest


def a_few(cases: Iterable[Any], also: Callable[[Any], bool] = lambda case: False, *, each: int = 32) -> list[Any]:
    """Mark all cases as `long`, but for the first of `each` so many and for those that are wanted `also`."""
    return [
        case if number % each == 0 or also(case) else _marked(case, pytest.mark.long)
        for number, case in enumerate(cases)
    ]


def _marked(case: Any, mark: pytest.MarkDecorator) -> Any:
    # What pytest.param returns; its type has no public name.
    if hasattr(case, "values") and hasattr(case, "marks"):
        return pytest.param(*case.values, marks=[*case.marks, mark], id=case.id)
    return pytest.param(case, marks=mark)
