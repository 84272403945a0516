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

    These options may also stand after the command. ls is short for list, rm for remove.

    Exit codes: 0 success, 1 the program failed, 2 invalid command line or request, 3 limit or cancel, 4 no daemon,
    or the daemon is busy, is stopping or failed, 5 not found or ambiguous, 6 the output could not be written.
    """


if "_PROMPTLOGCTL_COMPLETE" in os.environ:
    import promptlogctl.cli.completion  # noqa: F401  # tells click how the shells' scripts ask

__all__ = ["cli"]
