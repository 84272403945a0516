"""Marks most cases of a long table as `long`, so that `make test` runs a few, and `make test-long` all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest


def a_few(cases: Iterable[Any], also: Callable[[Any], bool] = lambda case: False, *, each: int = 32) -> list[Any]:
    """Mark all cases as `long` except the first of each `each` cases and those for which `also` is true."""
    return [
        case if number % each == 0 or also(case) else _marked(case, pytest.mark.long)
        for number, case in enumerate(cases)
    ]


def _marked(case: Any, mark: pytest.MarkDecorator) -> Any:
    # The type that pytest.param returns has no public name.
    if hasattr(case, "values") and hasattr(case, "marks"):
        return pytest.param(*case.values, marks=[*case.marks, mark], id=case.id)
    return pytest.param(case, marks=mark)
