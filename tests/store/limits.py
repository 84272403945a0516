"""Limits of the kernel's on this process, put on around a call: real errors, whoever runs the tests."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let no file be written to from this offset on (EFBIG); a write that crosses it is cut short."""
    with _limit(resource.RLIMIT_FSIZE, size):
        yield


@contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """Let so many more descriptors be opened, and no others (EMFILE)."""
    opened = [os.open("/", os.O_PATH) for _ in range(count + 1)]
    for descriptor in opened:
        os.close(descriptor)
    with _limit(resource.RLIMIT_NOFILE, max(opened)):
        yield


@contextmanager
def _limit(kind: int, most: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(kind, (soft, hard))
