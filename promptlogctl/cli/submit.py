"""promptlogctl submit."""

from __future__ import annotations

import click

from promptlogctl.cli import output
from promptlogctl.cli.app import App, Source, command, read_text


@click.command()
@click.argument("file")
@click.option("--name", help="Put this name on the program; it is then also @NAME.")
@command
def submit(app: App, file: str, name: str | None) -> None:
    """Keep the program in FILE (- for standard input) and print its hash."""
    source = read_text(file, "program")
    app.source = Source(file, source)
    with app.client() as client:
        kept = client.submit(source, name=None if name is None else name.removeprefix("@"))
    if app.temporary:
        output.note("kept in a temporary store, which is gone now; --state-dir DIR keeps it")
    if app.json:
        output.as_json(kept)
    else:
        click.echo(kept.hash)
