"""The commands. A table of contents: each command is in a file of its own or with its likes."""

from typing import Any

import click

from promptlogctl.cli.completion import completion
from promptlogctl.cli.daemon import ping, stats
from promptlogctl.cli.doctor import doctor
from promptlogctl.cli.output import Exit, as_json
from promptlogctl.cli.programs import list_, name, remove, show
from promptlogctl.cli.run import exec_, run
from promptlogctl.cli.submit import submit


class _Commands(click.Group):
    """The commands; an error of usage is one line of JSON, too, for who asked for JSON."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.obj = "--json" in args
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            if not ctx.obj:
                raise
            as_json({"error": {"code": "usage", "message": error.format_message(), "detail": {}}})
            ctx.exit(Exit.USAGE)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="promptlog", prog_name="promptlogctl")
def cli() -> None:
    """Run JavaScript that somebody else wrote, each run in a jailed process of its own.

    Exit codes: 0 ok, 1 the program failed, 2 usage, or a request that is wrong, 3 a limit or cancel, 4 no daemon,
    or one that is busy, stops or failed, 5 not found or ambiguous, 6 the output could not be written.
    """


for _command in (submit, run, exec_, show, list_, remove, name, ping, stats, doctor, completion):
    cli.add_command(_command)

__all__ = ["cli"]
