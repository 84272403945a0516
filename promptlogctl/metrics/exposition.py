"""Converts a `stats` reply to the Prometheus text format. docs/metrics.md lists the metrics.

All labels have values from closed sets: engines, outcomes, error codes and states of cells. A value that this version
does not know becomes `other`. So the number of time series is bounded, and no text of a program or a client is a label.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import get_args

from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector, CollectorRegistry

from promptlogctl.client import ErrorCode, Histogram, Outcome, StatsReply

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

ENGINES = ("quickjs", "deno")
"""Engines that have series of their own, even before their first run."""

UNKNOWN = "unknown"
"""Engine of runs that were cancelled before their program was found."""

QUOTAS = ("runs_at_once", "queued", "runs_per_s", "cpu_ms_per_s", "programs", "stored_mb", "names")
"""Quotas that can be used up. The others limit what a run may ask for."""

OTHER = "other"
OUTCOMES = tuple(str(outcome.__struct_config__.tag) for outcome in get_args(Outcome))
CODES: tuple[str, ...] = get_args(ErrorCode)


def exposition(stats: StatsReply | None) -> bytes:
    """Return the metrics as text. `stats`: None if the daemon does not answer; then `promptlog_up` is 0."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(stats))
    return generate_latest(registry)


class _Families(Collector):
    """The metrics of one `stats` reply."""

    def __init__(self, stats: StatsReply | None) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        stats = self._stats
        yield _gauge("up", "Whether the daemon answers.", int(stats is not None))
        if stats is None:
            return
        yield _gauge("uptime_seconds", "Time since the daemon's start.", stats.uptime_s)
        yield from _runs(stats)
        yield _gauge("running", "Runs that have a slot.", stats.running)
        yield _gauge("running_limit", "Number of slots.", stats.max_running)
        yield _gauge("queued", "Runs that wait for a slot.", stats.queued)
        yield _gauge("queued_limit", "Length of the queue at which runs are refused as busy.", stats.max_queued)
        yield from _cells(stats)
        yield _gauge("clients", "Connections.", stats.clients)
        yield _gauge("clients_limit", "Maximum number of connections.", stats.max_clients)
        errors = CounterMetricFamily("promptlog_errors", "Refused requests.", labels=["code"])
        for code, count in _closed(stats.errors, CODES).items():
            errors.add_metric([code], count)
        yield errors
        quotas = CounterMetricFamily(
            "promptlog_quota_refusals", "Requests refused because a quota was used up.", labels=["quota"]
        )
        for quota, count in _closed(stats.quotas, QUOTAS).items():
            quotas.add_metric([quota], count)
        yield quotas
        yield _gauge("programs", "Stored programs.", stats.programs)
        yield _gauge("program_bytes", "Size of the sources of all stored programs.", stats.program_bytes)
        if stats.store_bytes is not None and stats.max_store_bytes is not None:
            yield _gauge("store_bytes", "Disk space of programs, artifacts and damaged/.", stats.store_bytes)
            yield _gauge("store_limit_bytes", "Maximum of this disk space.", stats.max_store_bytes)
        if stats.turns is not None:
            turns = HistogramMetricFamily("promptlog_turn_seconds", "Turns of the event loop. All clients wait.")
            turns.add_metric([], *_buckets(stats.turns))
            yield turns
        yield _gauge("turn_longest_seconds", "Longest turn since the start.", round(stats.turn_max_ms / 1000, 6))
        yield _gauge("turn_cpu_longest_seconds", "Largest CPU time of a turn.", round(stats.turn_cpu_max_ms / 1000, 6))
        if stats.journal is not None:
            yield _gauge("journal_entries", "Entries in the journal.", stats.journal.rows)
            yield _gauge("journal_bytes", "Size of the journal.", stats.journal.bytes)
            yield _gauge("journal_waiting", "Entries that wait to be written.", stats.journal.waiting)
            yield _counter("journal_lost", "Entries that could not be written.", stats.journal.lost)


def _runs(stats: StatsReply) -> Iterator[Metric]:
    runs = CounterMetricFamily("promptlog_runs", "Finished runs.", labels=["engine", "outcome"])
    cpu = HistogramMetricFamily("promptlog_run_cpu_seconds", "CPU time of runs.", labels=["engine"])
    wall = HistogramMetricFamily(
        "promptlog_run_wall_seconds", "Wall time of runs, without the queue.", labels=["engine"]
    )
    # Known series start at 0, because Prometheus does not see the increase of a series that begins at 1.
    counts = {name: Counter(dict.fromkeys(OUTCOMES, 0)) for name in (*ENGINES, UNKNOWN)}
    for engine in stats.engines:
        name = engine.engine if engine.engine in counts else OTHER
        counts.setdefault(name, Counter()).update(_closed(engine.runs, OUTCOMES))
        if name in ENGINES:
            cpu.add_metric([name], *_buckets(engine.cpu))
            wall.add_metric([name], *_buckets(engine.wall))
    for name, outcomes in counts.items():
        for outcome, count in outcomes.items():
            runs.add_metric([name, outcome], count)
    yield from (runs, cpu, wall)


def _cells(stats: StatsReply) -> Iterator[Metric]:
    cells = GaugeMetricFamily("promptlog_cells", "Cells by state.", labels=["engine", "state"])
    started = CounterMetricFamily("promptlog_cells_started", "Cells that were started.", labels=["engine"])
    retired = CounterMetricFamily("promptlog_cells_retired", "Cells that were ended.", labels=["engine"])
    for pool in stats.pools:
        name = pool.engine
        if name not in ENGINES:
            continue
        not_ready = max(0, pool.size - pool.blank - pool.busy)
        for state, count in (("blank", pool.blank), ("busy", pool.busy), ("not_ready", not_ready)):
            cells.add_metric([name, state], count)
        started.add_metric([name], pool.started)
        retired.add_metric([name], pool.retired)
    yield from (cells, started, retired)


def _closed(counts: Mapping[str, int], known: tuple[str, ...]) -> Counter[str]:
    """Return the counts by known names, with zeros. The others are summed up as `other`, if there are any."""
    closed = Counter(dict.fromkeys(known, 0))
    for name, count in counts.items():
        closed[name if name in known else OTHER] += count
    return closed


def _buckets(histogram: Histogram) -> tuple[list[tuple[str, float]], float]:
    """Return cumulative counts by upper bound in seconds, and the sum in seconds."""
    bounds = [f"{bound_ms / 1000:g}" for bound_ms in histogram.bounds_ms]
    counts = accumulate(float(count) for count in histogram.counts)
    return list(zip([*bounds, "+Inf"], counts, strict=True)), histogram.sum_ms / 1000


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"promptlog_{name}", text, value=value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"promptlog_{name}", text, value=value)
