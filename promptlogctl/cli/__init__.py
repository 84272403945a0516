"""The commands. Each has its own file of the same name, which is imported when the command is used."""

import os

import click

from promptlogctl.cli.app import Commands, shared_options
from promptlogctl.cli.version import VERSION

_COMMANDS = {
    "submit": "submit",
    "run": "run",
    "exec": "exec:exec_",
    "show": "show",
    "list": "list:list_",
    "remove": "remove",
    "name": "name",
    "log": "log",
    "ping": "ping",
    "stats": "stats",
    "top": "top",
    "metrics": "metrics",
    "config": "config",
    "doctor": "doctor",
    "canary": "canary",
    "gc": "gc",
    "verify": "verify",
    "backup": "backup",
    "export": "export",
    "import": "import_",
    "http": "http",
    "play": "play",
    "install-service": "install_service",
    "uninstall-service": "uninstall_service",
    "completion": "completion",
}
"""Each command's module, and the name of its function if that differs."""


@click.group(cls=Commands, modules=_COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@VERSION
@shared_options
def cli(**_: object) -> None:
    """Run untrusted JavaScript, each run in its own jailed process.

    You can also write these options after the command. ls is short for list, and rm for remove.

    \b
    Exit codes:
      0  success
      1  the program failed, or has a syntax error
      2  the command line or the request is invalid
      3  the run reached a limit, or was cancelled
      4  no daemon answers; or the daemon is busy, is stopping, or failed;
         or a right is missing, or a quota is used up
      5  the program or name was not found, or the hash prefix is ambiguous
      6  the output could not be written
    """


if "_PROMPTLOGCTL_COMPLETE" in os.environ:
    import promptlogctl.cli.completion  # noqa: F401  # tells click how the shells' scripts ask

__all__ = ["cli"]
