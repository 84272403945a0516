"""Settings of the C library's allocator (glibc alone), and of Python's cyclic garbage collector."""

from __future__ import annotations

import ctypes
import gc

# mallopt(3). Large messages get pages of their own, which are given back. Buffers of the usual reads are smaller.
# Without this the C library learns from the first large messages to keep all of them in its heap, which then grows.
_OPTIONS = {
    -3: 288 * 1024,  # M_MMAP_THRESHOLD, just above what is read at once
    -1: 2 * 1024 * 1024,  # M_TRIM_THRESHOLD
    -8: 2,  # M_ARENA_MAX
}


def set_up() -> None:
    """Give back large messages' memory at once."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in _OPTIONS.items():
            mallopt(option, value)


def trim() -> None:
    """Give free memory between blocks in use back to the kernel. Takes 1 to 10 ms; can be called in a thread."""
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)


_THRESHOLDS = 700, 10, 1_000_000
"""Of garbage collections. The first two are Python's defaults. Automatic collections of the oldest generation are off,
because one takes 130 ms with 4,000 connections."""


def settle() -> None:
    """Exclude the present objects, mostly modules, from garbage collection: traversing them takes 5 to 12 ms.

    The oldest generation is not collected automatically from now on: the server does that.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
