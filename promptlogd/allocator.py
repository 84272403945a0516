"""How the daemon's memory is kept: by the C library, one that is not glibc excepted, and by the collector of cycles."""

from __future__ import annotations

import ctypes
import gc

# mallopt(3). Large messages get, and give back, pages of their own; what the daemon reads into all the time does not.
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
    """Give back what is free between what is in use. Takes 1 to 10 ms; can be called in a thread."""
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)


def settle() -> None:
    """Take what is there by now, modules above all, from the collector of cycles: to look at it takes 5 to 12 ms."""
    gc.collect()
    gc.freeze()
