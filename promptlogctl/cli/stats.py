"""promptlogctl stats."""

from __future__ import annotations

import click

from promptlogctl.cli import output, terminal
from promptlogctl.cli.app import App, command


@click.command()
@command
def stats(app: App) -> None:
    """Show the daemon's counters, and what enforces limits.

    The counters start at 0 when the daemon starts.
    """
    with app.client() as client:
        counts = client.stats()
    if app.json:
        output.as_json(counts)
        return
    rows = [
        ["uptime", f"{counts.uptime_s:.0f} s"],
        ["clients", str(counts.clients)],
        ["running", str(counts.running)],
        ["queued", str(counts.queued)],
        ["programs", f"{counts.programs}, {counts.program_bytes} bytes of source"],
    ]
    rows += [[f"runs {kind}", str(count)] for kind, count in sorted(counts.runs.items())]
    rows += [[f"errors {code}", str(count)] for code, count in sorted(counts.errors.items())]
    rows += [[f"errors quota {quota}", str(count)] for quota, count in sorted(counts.quotas.items())]
    if counts.store_bytes is not None and counts.max_store_bytes is not None:
        rows.append(["store", f"{counts.store_bytes} bytes of {counts.max_store_bytes}"])
    for pool in counts.pools:
        text = f"{pool.blank} blank, {pool.busy} busy of {pool.size}; {pool.started} started, {pool.retired} retired"
        rows.append([f"cells {pool.engine}", text])
    rows += [
        [f"limit {name}", what if what.startswith("it is not") else f"enforced by {what}"]
        for name, what in counts.held_by.items()
    ]
    if (journal := counts.journal) is not None:
        text = f"{journal.rows} entries, {journal.bytes} bytes; {journal.waiting} waiting, {journal.lost} lost"
        rows.append(["journal", text])
    rows.append(["jail uids", counts.jail_uids])
    rows.append(["cgroup", counts.cgroup])
    longest = f"maximum {counts.turn_max_ms:g} ms, maximum CPU time {counts.turn_cpu_max_ms:g} ms"
    rows.append(["event loop turns", f"p99 {counts.turn_p99_ms:g} ms, {longest}"])
    terminal.table(["STATISTIC", "VALUE"], rows, wrap=True)
