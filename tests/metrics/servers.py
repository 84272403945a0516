"""Runs `promptlogctl metrics --listen` in a process of its own, and parses its samples."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.daemon.processes import until
from tests.http.servers import exchanged

_READY = re.compile(r"listening on (\S+);")

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@contextmanager
def metrics_server(daemon: Path, listen: str = "127.0.0.1:0") -> Iterator[str]:
    """Start a server, yield its URL (or `unix:PATH`), and stop the server when the block ends."""
    command = [sys.executable, "-m", "promptlogctl", "metrics", "--listen", listen]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, env={**os.environ, "PROMPTLOG_SOCKET": str(daemon)}, stderr=log)

        def said() -> str:
            log.seek(0)
            return log.read()

        try:
            until(lambda: _READY.search(said()) is not None or process.poll() is not None, 30)
            ready = _READY.search(said())
            assert ready, said()
            yield ready[1]
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
            assert "Traceback" not in said(), said()


def scraped(url: str) -> Samples:
    """Scrape a server, and return its samples."""
    head, _, body = exchanged(url, b"GET /metrics HTTP/1.1\r\nHost: localhost:1\r\n\r\n").partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain; version=0.0.4"), head
    assert f"content-length: {len(body)}\r\n".encode() in head
    return samples(body.decode())


def samples(text: str) -> Samples:
    """Parse the Prometheus text format, with prometheus-client's parser."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(found: Samples, name: str, **labels: str) -> float:
    """Return the value of one sample."""
    return found[f"promptlog_{name}", frozenset(labels.items())]
