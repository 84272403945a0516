"""promptlogctl gc: remove unused programs. Design: docs/operations/store.md."""

from __future__ import annotations

import click

from promptlogctl.cli import output, terminal
from promptlogctl.cli.app import App, command
from promptlogctl.cli.quantities import Age, Size, shown


@click.command()
@click.option("--unused", type=Age(), help="Only programs that were not submitted or run for this time, such as 30d.")
@click.option("--over", type=Size(), help="Stop when the store takes at most this disk space, such as 500M or 1G.")
@click.option("--dry-run", is_flag=True, help="Remove nothing, and print what would be removed.")
@command
def gc(app: App, unused: int | None, over: int | None, dry_run: bool) -> None:
    """Remove unused programs that have no name.

    --unused or --over is required. With both, a program must meet both conditions. The longest unused programs are
    removed first. The command prints what it removes. It requires the right `manage`.
    """
    if unused is None and over is None:
        raise click.UsageError("give --unused AGE, --over SIZE, or both")
    with app.client() as client:
        programs = []
        store_bytes = 0
        for page in client.collect(unused_s=unused, over_bytes=over, dry_run=dry_run):
            store_bytes = page.store_bytes
            programs += page.programs
            if not app.json:
                for one in page.programs:
                    row = [one.hash, str(one.size), output.when(one.used_at, short=True)]
                    click.echo("\t".join(terminal.safe(cell) for cell in row))
    if app.json:
        output.as_json({"dry_run": dry_run, "programs": programs, "store_bytes": store_bytes})
        return
    freed = sum(one.size for one in programs)
    done, takes = ("would remove", "would take") if dry_run else ("removed", "takes")
    output.note(f"{done} {len(programs)} programs, {shown(freed)}; the store {takes} {shown(store_bytes)}")
    if over is not None and store_bytes > over:
        output.note("no other program may go: the rest has names, is in use, or is in damaged/")
