"""The file descriptors of the HTTP server's process, which limit the number of its connections."""

from __future__ import annotations

import resource

HTTP_CONNECTIONS = 10_000
"""Maximum number of connections of this process. Further ones are closed."""

_SPARE_DESCRIPTORS = 100


def most_connections() -> int:
    """Return the maximum number of connections, considering the limit of file descriptors."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(HTTP_CONNECTIONS, max(16, soft - _SPARE_DESCRIPTORS))


def raise_descriptor_limit() -> None:
    """Raise this process's limit of file descriptors to its maximum."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
