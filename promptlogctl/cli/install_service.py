"""promptlogctl install-service."""

from __future__ import annotations

import os
from pathlib import Path

import click

from promptlogctl.cli import output, system, terminal, units
from promptlogctl.cli.app import App, command
from promptlogctl.cli.output import Exit
from promptlogctl.cli.units import UnitFile, UnitsError


@click.command("install-service")
@click.option("--print", "prints", is_flag=True, help="Print the unit files, and change nothing.")
@click.option("--user", "of_user", is_flag=True, help="Install a service for this user only. This does not need root.")
@command
def install_service(app: App, prints: bool, of_user: bool) -> Exit:
    """Install promptlog as a systemd service.

    This starts the socket of the service. The daemon starts when the first client connects. Members of the group
    promptlog-clients may connect; with --user, only this user may. Run this command again after each upgrade of
    promptlog.
    """
    try:
        files = units.user_files() if of_user else units.system_files()
        if prints:
            _show(app, files)
            return Exit.OK
        system.check_systemd(of_user=of_user)
        if not of_user:
            system.check_unpackaged("systemctl enable --now promptlogd.socket")
        units.check_commands(of_user=of_user)
        check_unmasked(files)
        written = [file.path for file in files if write(file)]
        if not of_user:
            system.run("systemd-sysusers", "/etc/sysusers.d/promptlog.conf")
            system.run("systemd-tmpfiles", "--create", "/etc/tmpfiles.d/promptlog.conf")
        # One reload for all: systemd reads each unit of the host again, and starts no service meanwhile.
        system.systemctl("enable", "--no-reload", "promptlogd.socket", of_user=of_user)
        system.systemctl("daemon-reload", of_user=of_user)
        system.systemctl("start", "promptlogd.socket", of_user=of_user)
    except UnitsError as error:
        return Exit(output.problem("usage", str(error), Exit.USAGE, json=app.json))
    if app.json:
        output.as_json({"written": list(map(str, written))})
        return Exit.OK
    for path in written:
        click.echo(f"wrote {terminal.safe(str(path))}")
    user = " --user" if of_user else ""
    click.echo(f"The socket listens. After an upgrade: systemctl{user} restart promptlogd")
    if not of_user:
        click.echo("Let a user connect: usermod --append --groups promptlog-clients USER")
        click.echo("Serve HTTP as well: systemctl enable --now promptlog-http.socket")
        click.echo("Serve metrics as well: systemctl enable --now promptlog-metrics.socket")
    return Exit.OK


def _show(app: App, files: list[UnitFile]) -> None:
    if app.json:
        output.as_json([{"path": str(file.path), "text": file.text} for file in files])
        return
    for file in files:
        click.echo(f"# --- {terminal.safe(str(file.path))}")
        click.echo(file.text)


def check_unmasked(files: list[UnitFile]) -> None:
    """Raise UnitsError if the operator has masked a file with a link to /dev/null (`systemctl mask`)."""
    for file in files:
        if os.path.islink(file.path) and os.path.realpath(file.path) == os.devnull:
            raise UnitsError(f"{file.path} is masked: it is a link to /dev/null; to install the service, remove it")


def write(file: UnitFile) -> bool:
    """Write a file atomically. Return whether it was written. Raises UnitsError.

    An existing editable file stays as it is.
    """
    try:
        if os.path.lexists(file.path) and (file.editable or file.path.read_text("utf-8") == file.text):
            return False
        file.path.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(f"{file.path}.new")
        beside.write_text(file.text, "utf-8")
        beside.chmod(0o644)
        beside.replace(file.path)
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise UnitsError(f"can't write {file.path}: {why}") from None
    return True
