"""The commands. A table of contents: each command is in a file of its own or with its likes."""

import click

from promptlogctl.cli.completion import completion
from promptlogctl.cli.daemon import ping, stats
from promptlogctl.cli.doctor import doctor
from promptlogctl.cli.programs import list_, name, remove, show
from promptlogctl.cli.run import exec_, run
from promptlogctl.cli.submit import submit


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="promptlog", prog_name="promptlogctl")
def cli() -> None:
    """Run JavaScript that somebody else wrote, each run in a jailed process of its own.

    Exit codes: 0 ok, 1 the program failed, 2 usage, 3 a limit or cancel, 4 no daemon or refused by it,
    5 not found or ambiguous, 6 the output could not be written.
    """


for _command in (submit, run, exec_, show, list_, remove, name, ping, stats, doctor, completion):
    cli.add_command(_command)

__all__ = ["cli"]
