"""promptlogctl --version: the versions of promptlog and of the installed engines."""

from __future__ import annotations

import click

from promptlogctl.cli import terminal


def _print(context: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    if not wanted or context.resilient_parsing:
        return
    # Importing these takes as long as a short command.
    from importlib.metadata import version

    from sandbox.engines.installed import installed_versions

    click.echo(f"promptlogctl, version {version('promptlog')}")
    for engine, name in installed_versions().items():
        click.echo(f"{engine}: {terminal.safe(name)}")
    context.exit()


VERSION = click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print,
    help="Show the versions of promptlog and of its engines, and exit.",
)
