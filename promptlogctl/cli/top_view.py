"""What `promptlogctl top` shows: computed from two `stats` replies, and laid out as lines for a terminal's width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from promptlogctl.cli.terminal import safe
from promptlogctl.client import EngineStats, Histogram, JournalSum, StatsReply

_SHORT = 12
"""Digits of a hash."""
_GAP = "  "


class EngineView(msgspec.Struct, frozen=True, kw_only=True):
    """Runs and cells of one engine. Durations are None if no run ended in the interval."""

    engine: str
    runs: int = 0
    cpu_p50_ms: float | None = None
    cpu_p99_ms: float | None = None
    wall_p50_ms: float | None = None
    wall_p99_ms: float | None = None
    cells: int = 0
    blank: int = 0
    busy: int = 0


class View(msgspec.Struct, frozen=True, kw_only=True):
    """The state of the daemon, and the rates in an interval."""

    interval_s: float
    is_whole: bool
    """Whether the interval is the time since the daemon's start."""
    uptime_s: float
    clients: int
    running: int
    max_running: int
    queued: int
    max_queued: int
    programs: int
    runs: dict[str, int]
    """Runs that ended in the interval, by outcome, without zeros."""
    errors: dict[str, int]
    """Requests that were refused in the interval, by error code, without zeros."""
    turn_p99_ms: float | None
    turn_max_ms: float
    """Longest turn since the daemon's start."""
    engines: list[EngineView]
    busiest: Sequence[JournalSum]


def view(new: StatsReply, old: StatsReply | None, busiest: Sequence[JournalSum]) -> View:
    """Return the view of the interval between two replies. Without an old one, or after a restart: since the start."""
    if old is not None and new.uptime_s <= old.uptime_s:
        old = None
    interval_s = max(new.uptime_s - (old.uptime_s if old is not None else 0.0), 0.001)
    before = {engine.engine: engine for engine in old.engines} if old is not None else {}
    engines = {engine.engine: _engine(engine, before.get(engine.engine)) for engine in new.engines}
    for pool in new.pools:
        engine = engines.get(pool.engine, EngineView(engine=pool.engine))
        engines[pool.engine] = msgspec.structs.replace(engine, cells=pool.size, blank=pool.blank, busy=pool.busy)
    return View(
        interval_s=round(interval_s, 3),
        is_whole=old is None,
        uptime_s=new.uptime_s,
        clients=new.clients,
        running=new.running,
        max_running=new.max_running,
        queued=new.queued,
        max_queued=new.max_queued,
        programs=new.programs,
        runs=_grown(new.runs, old.runs if old is not None else {}),
        errors=_grown(new.errors, old.errors if old is not None else {}),
        turn_p99_ms=None
        if new.turns is None
        else quantile(_since(new.turns, old.turns if old is not None else None), 0.99),
        turn_max_ms=new.turn_max_ms,
        engines=sorted(engines.values(), key=lambda engine: -engine.runs),
        busiest=busiest,
    )


def _engine(new: EngineStats, old: EngineStats | None) -> EngineView:
    cpu, wall = _since(new.cpu, old.cpu if old else None), _since(new.wall, old.wall if old else None)
    return EngineView(
        engine=new.engine,
        runs=sum(_grown(new.runs, old.runs if old is not None else {}).values()),
        cpu_p50_ms=quantile(cpu, 0.5),
        cpu_p99_ms=quantile(cpu, 0.99),
        wall_p50_ms=quantile(wall, 0.5),
        wall_p99_ms=quantile(wall, 0.99),
    )


def _grown(new: Mapping[str, int], old: Mapping[str, int]) -> dict[str, int]:
    grown = {name: count - old.get(name, 0) for name, count in sorted(new.items())}
    return {name: count for name, count in grown.items() if count > 0}


def _since(new: Histogram, old: Histogram | None) -> Histogram:
    """Return the durations that were counted between two replies."""
    if old is None or old.bounds_ms != new.bounds_ms:
        return new
    counts = [count - before for count, before in zip(new.counts, old.counts, strict=True)]
    return Histogram(bounds_ms=new.bounds_ms, counts=counts, sum_ms=new.sum_ms - old.sum_ms)


def quantile(histogram: Histogram, share: float) -> float | None:
    """Return a quantile in ms, interpolated within its bucket as Prometheus does. None if there are no durations."""
    wanted = sum(histogram.counts) * share
    if wanted <= 0:
        return None
    lower_ms = below = 0.0
    for bound_ms, count in zip(histogram.bounds_ms, histogram.counts, strict=False):
        if count and below + count >= wanted:
            return round(lower_ms + (bound_ms - lower_ms) * (wanted - below) / count, 3)
        below += count
        lower_ms = bound_ms
    return lower_ms  # above all bounds


def lines(view: View, width: int) -> list[str]:
    """Return the view as lines of at most `width` characters: counts since the start, or rates in the interval."""

    def amount(count: int) -> str:
        return str(count) if view.is_whole else f"{count / view.interval_s:.1f}"

    per_s, since = ("", "since the start") if view.is_whole else ("/s", f"last {view.interval_s:.1f} s")
    shown = _wrapped(
        [
            f"up {_age(view.uptime_s)}",
            f"clients {view.clients}",
            f"running {view.running} of {view.max_running}",
            f"queued {view.queued} of {view.max_queued}",
            f"programs {view.programs}",
            f"loop p99 {_ms(view.turn_p99_ms)} ms, longest {_ms(view.turn_max_ms)} ms",
        ],
        width,
    )
    outcomes = [f"{safe(kind)} {amount(count)}" for kind, count in view.runs.items()]
    shown += _wrapped([f"runs{per_s} {amount(sum(view.runs.values()))} ({since})", *outcomes], width)
    if view.errors:
        codes = [f"{safe(code)} {amount(count)}" for code, count in view.errors.items()]
        shown += _wrapped([f"errors{per_s}", *codes], width)
    shown.append("")
    shown += _table(
        ["ENGINE", f"RUNS{per_s.upper()}", "WALL P50", "P99", "CPU P50", "P99", "CELLS", "BLANK", "BUSY"],
        [
            [
                safe(engine.engine),
                amount(engine.runs),
                *map(_ms, (engine.wall_p50_ms, engine.wall_p99_ms, engine.cpu_p50_ms, engine.cpu_p99_ms)),
                *map(str, (engine.cells, engine.blank, engine.busy)),
            ]
            for engine in view.engines
        ],
        width,
    )
    if view.busiest:
        shown.append("")
        shown += _table(
            ["PROGRAM", "RUNS", "CPU MS", "FAILED", "MEAN WALL", "MAX CPU", "ENGINE"],
            [
                [
                    safe(row.hash[:_SHORT]) or "unknown",
                    str(row.runs),
                    f"{row.cpu_ms:.1f}",
                    str(row.failed),
                    f"{row.wall_mean_ms:.1f}",
                    f"{row.cpu_max_ms:.1f}",
                    safe(row.engine),
                ]
                for row in view.busiest
            ],
            width,
        )
    return [line[:width] for line in shown]


def _ms(duration_ms: float | None) -> str:
    if duration_ms is None:
        return "-"
    digits = 2 if duration_ms < 1 else 1 if duration_ms < 100 else 0
    return f"{duration_ms:.{digits}f}"


def _age(seconds: float) -> str:
    minutes, hours, days = int(seconds) // 60, int(seconds) // 3600, int(seconds) // 86400
    if days:
        return f"{days} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min {int(seconds) % 60} s" if minutes else f"{seconds:.0f} s"


def _wrapped(pieces: list[str], width: int) -> list[str]:
    """Join pieces to lines, without breaking one."""
    found: list[str] = []
    for piece in pieces:
        if found and len(found[-1]) + len(_GAP) + len(piece) <= width:
            found[-1] += _GAP + piece
        else:
            found.append(piece)
    return found


def _table(header: list[str], rows: list[list[str]], width: int) -> list[str]:
    """Align columns. The last columns are dropped if they do not fit. Numbers are aligned to the right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    fitting = next(n for n in range(len(header), 0, -1) if n == 1 or sum(widths[:n]) + len(_GAP) * (n - 1) <= width)
    return [
        _GAP.join(
            cell.ljust(size) if index == 0 else cell.rjust(size)
            for index, (cell, size) in enumerate(zip(row[:fitting], widths[:fitting], strict=True))
        ).rstrip()
        for row in [header, *rows]
    ]
