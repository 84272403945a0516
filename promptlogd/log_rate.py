"""A bound for the log: what a client or a program can cause again and again must not fill a disk."""

from __future__ import annotations

import logging
import re
import time
from collections import OrderedDict

_BURST = 50
_PER_S = 5.0
_PLACES = 256
"""So many places in the code that write a line are told apart."""

_HEAD, _TAIL = 2000, 6000
"""Characters of a longer line that are written, at its begin and its end, where a traceback names the error."""

_UNPRINTABLE = re.compile(r"[^\n\t\x20-\x7e\xa0-\ud7ff\ue000-\U0010ffff]")


class RateLimit(logging.Filter):
    """A token bucket for each place in the code. What is dropped is counted, and told with the next line from there."""

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
    """Return a line without its middle if it is long, and without what a terminal would obey."""
    if len(line) > _HEAD + _TAIL:
        line = f"{line[:_HEAD]} ({len(line) - _HEAD - _TAIL} characters are left out) {line[-_TAIL:]}"
    return _UNPRINTABLE.sub("?", line)


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
