"""The daemon's counters as Prometheus metrics: their text, and an HTTP server for it. A client of the daemon.

This package needs the extra `metrics` of promptlog.
"""
