"""Kernel limits on this process during a block. They cause real errors, also for root."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Make writes beyond this offset of a file fail with EFBIG; a write that crosses it is cut short."""
    with _limit(resource.RLIMIT_FSIZE, size):
        yield


@contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """Allow this number of further descriptors; opening more fails with EMFILE."""
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
