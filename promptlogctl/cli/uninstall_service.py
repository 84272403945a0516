"""promptlogctl uninstall-service."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

import click

from promptlogctl.cli import output, system, terminal, units
from promptlogctl.cli.app import App, command
from promptlogctl.cli.output import Exit
from promptlogctl.cli.units import UnitFile, UnitsError

_SYSTEM_DATA = (Path("/var/lib/promptlog"), Path("/etc/promptlog"))
_USERS = ("promptlog", "promptlog-http")
_GROUPS = ("promptlog-clients", *_USERS)
_UNKNOWN = 6
"""Exit code of userdel and groupdel for a user or group that does not exist."""

_ABSENT = 5
"""Exit code of systemctl for a unit that does not exist."""


@click.command("uninstall-service")
@click.option("--user", "of_user", is_flag=True, help="Remove the service of this user.")
@click.option("--purge", is_flag=True, help="Also remove the programs, the configuration and the users.")
@command
def uninstall_service(app: App, of_user: bool, purge: bool) -> Exit:
    """Remove the systemd service.

    This stops the service, and removes what install-service wrote. The programs stay, and so does a configuration that
    was changed. --purge removes them as well; with --user, it keeps the programs.
    """
    try:
        system.check_systemd(of_user=of_user)
        if not of_user:
            system.check_unpackaged("apt remove promptlog, or apt purge promptlog")
        files = units.user_files() if of_user else units.system_files()
        names = units.USER_UNITS if of_user else units.UNITS
        system.systemctl("stop", *names, of_user=of_user, allowed=(0, 1, _ABSENT))
        # systemctl disables none of them if one does not exist or is masked: a link to /dev/null.
        present = [file.path.name for file in files if file.path.name in names and file.path.is_file()]
        if present:
            system.systemctl("disable", "--no-reload", *present, of_user=of_user, allowed=(0, 1))
        removed = [file.path for file in files if remove(file, purge=purge)]
        system.systemctl("daemon-reload", of_user=of_user)
        system.systemctl("reset-failed", *names, of_user=of_user, allowed=(0, 1, _ABSENT))
        kept = [path for file in files for path in (file.path, drop_ins(file)) if path.exists()]
        if not of_user:
            with suppress(OSError):
                Path("/run/promptlog").rmdir()
            if purge:
                removed += _purge()
            kept += [path for path in _SYSTEM_DATA[:1] if path.exists()]
    except UnitsError as error:
        return Exit(output.problem("usage", str(error), Exit.USAGE, json=app.json))
    if app.json:
        output.as_json({"removed": list(map(str, removed)), "kept": list(map(str, kept))})
        return Exit.OK
    for word, paths in (("removed", removed), ("kept", kept)):
        for path in paths:
            click.echo(f"{word} {terminal.safe(str(path))}")
    return Exit.OK


def drop_ins(file: UnitFile) -> Path:
    """Return the drop-in folder of a configuration."""
    return Path(f"{file.path}.d")


def remove(file: UnitFile, *, purge: bool) -> bool:
    """Remove a file, and its folder if it is empty and belongs to promptlog. Return whether the file was removed.

    A changed configuration is removed only with `purge`, and then together with its drop-ins. Raises UnitsError.
    """
    try:
        if not os.path.lexists(file.path):
            return False
        if file.editable and not purge and file.path.read_text("utf-8", "replace") != file.text:
            return False
        file.path.unlink()
        if file.editable and purge and drop_ins(file).exists():
            shutil.rmtree(drop_ins(file))
        if file.path.parent.name == "promptlog":
            with suppress(OSError):
                file.path.parent.rmdir()
    except OSError as error:
        raise UnitsError(f"can't remove {file.path}: {error.strerror}") from None
    return True


def _purge() -> list[Path]:
    removed = []
    for folder in _SYSTEM_DATA:
        try:
            if folder.exists():
                shutil.rmtree(folder)
                removed.append(folder)
        except OSError as error:
            raise UnitsError(f"can't remove {folder}: {error.strerror}") from None
    for user in _USERS:
        system.run("userdel", user, allowed=(0, _UNKNOWN))
    for group in _GROUPS:
        system.run("groupdel", group, allowed=(0, _UNKNOWN))
    return removed
