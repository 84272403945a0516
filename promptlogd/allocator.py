"""Settings of the C library's allocator (glibc only), and of Python's cyclic garbage collector."""

from __future__ import annotations

import ctypes
import gc

# mallopt(3). Large messages get their own pages, which are returned to the kernel. Buffers of normal reads are smaller.
# Without this, glibc raises its mmap threshold after the first large messages, keeps them in its heap, and grows.
_OPTIONS = {
    -3: 288 * 1024,  # M_MMAP_THRESHOLD, just above what is read at once
    -1: 2 * 1024 * 1024,  # M_TRIM_THRESHOLD
    -8: 2,  # M_ARENA_MAX
}


def set_up() -> None:
    """Make the allocator return the memory of large messages at once."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in _OPTIONS.items():
            mallopt(option, value)


def trim() -> None:
    """Return free memory between used blocks to the kernel. Takes 1 to 10 ms. Can be called in a thread."""
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)


_THRESHOLDS = 700, 10, 1_000_000
"""Thresholds of garbage collection. The first two are Python's defaults. Automatic collections of the oldest generation
are off, because one takes 130 ms with 4,000 connections."""


def settle() -> None:
    """Exclude the present objects, mostly modules, from garbage collection: traversing them takes 5 to 12 ms.

    From now on, the oldest generation is not collected automatically: `upkeep` does that.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
