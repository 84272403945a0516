"""The commands. Each has its own file of the same name."""

import click

from promptlogctl.cli.app import Commands, shared_options
from promptlogctl.cli.backup import backup
from promptlogctl.cli.canary import canary
from promptlogctl.cli.completion import completion
from promptlogctl.cli.config import config
from promptlogctl.cli.doctor import doctor
from promptlogctl.cli.exec import exec_
from promptlogctl.cli.export import export
from promptlogctl.cli.gc import gc
from promptlogctl.cli.http import http
from promptlogctl.cli.import_ import import_
from promptlogctl.cli.install_service import install_service
from promptlogctl.cli.list import list_
from promptlogctl.cli.log import log
from promptlogctl.cli.metrics import metrics
from promptlogctl.cli.name import name
from promptlogctl.cli.ping import ping
from promptlogctl.cli.play import play
from promptlogctl.cli.remove import remove
from promptlogctl.cli.run import run
from promptlogctl.cli.show import show
from promptlogctl.cli.stats import stats
from promptlogctl.cli.submit import submit
from promptlogctl.cli.top import top
from promptlogctl.cli.uninstall_service import uninstall_service
from promptlogctl.cli.verify import verify
from promptlogctl.cli.version import VERSION


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@VERSION
@shared_options
def cli(**_: object) -> None:
    """Run untrusted JavaScript, each run in its own jailed process.

    These options may also stand after the command. ls is short for list, rm for remove.

    Exit codes: 0 success, 1 the program failed, 2 invalid command line or request, 3 limit or cancel, 4 no daemon,
    or the daemon is busy, is stopping or failed, 5 not found or ambiguous, 6 the output could not be written.
    """


_COMMANDS = (
    *(submit, run, exec_, show, list_, remove, name, log, ping, stats, top, metrics, config, doctor, canary),
    *(gc, verify, backup, export, import_, http, play, install_service, uninstall_service, completion),
)
for _command in _COMMANDS:
    cli.add_command(_command)

__all__ = ["cli"]
