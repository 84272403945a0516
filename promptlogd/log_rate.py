"""A bound for the log: what a client or a program can cause again and again must not fill a disk."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict

_BURST = 50
_PER_S = 5.0
_MESSAGES = 256
"""So many texts are told apart. Texts are those in the code, before anything is put into them."""


class RateLimit(logging.Filter):
    """A token bucket for each text. What is dropped is counted, and told with the next line of that text."""

    def __init__(self) -> None:
        super().__init__()
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is written."""
        text = str(record.msg)
        bucket = self._buckets.setdefault(text, _Bucket())
        self._buckets.move_to_end(text)
        if len(self._buckets) > _MESSAGES:
            self._buckets.popitem(last=False)
        if not bucket.take(time.monotonic()):
            return False
        if bucket.dropped:
            record.msg = f"{text} ({bucket.dropped} more like this were dropped before)"
            bucket.dropped = 0
        return True


class _Bucket:
    def __init__(self) -> None:
        self.dropped = 0
        self._left = float(_BURST)
        self._at = time.monotonic()

    def take(self, now: float) -> bool:
        """Whether there is leave for one more line; if not, it is counted."""
        self._left = min(_BURST, self._left + (now - self._at) * _PER_S)
        self._at = now
        if self._left < 1:
            self.dropped += 1
            return False
        self._left -= 1
        return True
