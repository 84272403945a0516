"""Rate limit of the log, so that log lines caused by clients or programs cannot fill a disk."""

from __future__ import annotations

import logging
import re
import time
from collections import OrderedDict

_BURST = 50
"""Burst: lines of one log statement that are written at once."""
_PER_S = 5.0
"""Lines of one log statement per second after that. With 100 bytes a line, 43 MB a day."""
_PLACES = 256
"""Log statements that have a bucket. The least recently used one is dropped first."""

HASH_SHOWN = 12
"""Digits of a hash in a line."""

_HEAD, _TAIL = 2000, 6000
"""Characters that are kept of a longer line, at its start and its end. A traceback has the error at the end."""

_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters and lone surrogates. The complement, all printable characters, would take 20 ms to compile."""


class RateLimit(logging.Filter):
    """A token bucket for each log statement. Its next line says how many lines were dropped."""

    def __init__(self) -> None:
        super().__init__()
        self._buckets: OrderedDict[tuple[str, int], _Bucket] = OrderedDict()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is written."""
        place = record.pathname, record.lineno
        bucket = self._buckets.setdefault(place, _Bucket())
        self._buckets.move_to_end(place)
        if len(self._buckets) > _PLACES:
            self._buckets.popitem(last=False)
        if not bucket.take(time.monotonic()):
            return False
        if bucket.dropped:
            record.msg = f"{record.msg} ({bucket.dropped} more like this were dropped before)"
            bucket.dropped = 0
        return True


def fit(line: str) -> str:
    """Return a line without its middle if it is long, and without control characters for a terminal."""
    if len(line) > _HEAD + _TAIL:
        line = f"{line[:_HEAD]} ({len(line) - _HEAD - _TAIL} characters omitted) {line[-_TAIL:]}"
    return _UNPRINTABLE.sub("?", line)


class _Bucket:
    def __init__(self) -> None:
        self.dropped = 0
        self._left = float(_BURST)
        self._at = time.monotonic()

    def take(self, now: float) -> bool:
        """Take a token, or count a dropped line. Return whether there was a token."""
        self._left = min(_BURST, self._left + (now - self._at) * _PER_S)
        self._at = now
        if self._left < 1:
            self.dropped += 1
            return False
        self._left -= 1
        return True
