"""Tables of measurements: percentiles of all samples, and medians over rounds."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence

from load import Load, percentile


class Table:
    """Rows of a table: name -> measurements of each round."""

    def __init__(self) -> None:
        self.rounds: dict[str, list[dict[str, float]]] = {}

    def add(self, name: str, **figures: float) -> None:
        """Add one round's figures."""
        self.rounds.setdefault(name, []).append(figures)

    def add_samples(self, name: str, samples: Sequence[float], rate: float | None = None) -> None:
        """Add the percentiles of sorted samples, in milliseconds."""
        figures = {f"p{share:g}": percentile(samples, share / 100) * 1000 for share in (50, 90, 99, 99.9)}
        if rate is not None:
            figures["per_s"] = rate
        self.add(name, samples=len(samples), **figures)

    def add_load(self, name: str, measured: Load) -> None:
        """Add the percentiles and the rate of a load. A wrong reply ends the benchmark."""
        if measured.wrong:
            sys.exit(f"{name}: {measured.wrong} answers were not what they should be")
        self.add_samples(name, measured.latencies, measured.rate)

    def medians(self) -> dict[str, dict[str, float]]:
        """Return each figure's median over the rounds."""
        return {
            name: {
                figure: statistics.median(of[figure] for of in rounds if figure in of)
                for figure in {figure: None for of in rounds for figure in of}
            }
            for name, rounds in self.rounds.items()
        }


def say(name: str) -> None:
    """Write the current measurement to stderr."""
    print(f"... {name}", file=sys.stderr, flush=True)


def show(medians: dict[str, dict[str, float]]) -> None:
    """Print the tables."""
    base = medians["floor: fork + exit + wait, C"]["p50"]
    heads = "".join(f"{head:>9}" for head in ("p50", "p90", "p99", "p99.9"))
    print(f"{'ms; closed loops, raw percentiles':52}{heads}{'per s':>8}{'p50/floor':>10}")
    for name, of in medians.items():
        if "p50" in of:
            figures = "".join(f"{of[figure]:9.3f}" for figure in ("p50", "p90", "p99", "p99.9"))
            rate = f"{of['per_s']:8.0f}" if "per_s" in of else " " * 8
            print(f"{name:52}{figures}{rate}{of['p50'] / base:10.1f}")
    print()
    for name, of in medians.items():
        if "p50" not in of:
            print(f"{name:52}" + "  ".join(f"{figure} {value:,.2f}" for figure, value in of.items()))
    floor = medians["floor: its CPU time"]["cpu_us"]
    for name, of in medians.items():
        if name.startswith("CPU us"):
            print(f"{name + ', / floor':52}{of['all'] / floor:.1f}")
