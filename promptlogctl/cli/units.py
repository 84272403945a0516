"""The files of the systemd service: their paths and contents.

The contents come from the folder `systemd/` of the sources, which is `promptlogd/systemd/` in the package. They contain
the path /opt/promptlog/bin, which this module replaces by the folder of this installation's commands.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import sysconfig
from pathlib import Path

import msgspec

from promptlogctl.client import PromptlogError
from sandbox.trusted_path import UntrustedPath, check_trusted_tree

_COMMANDS = "/opt/promptlog/bin/"
_HIDDEN = (Path("/home"), Path("/root"), Path("/run/user"), Path("/tmp"), Path("/var/tmp"))
"""What the system's units can't see: ProtectHome= and PrivateTmp=."""

UNITS = (
    *("promptlogd.socket", "promptlogd.service"),
    *("promptlog-http.socket", "promptlog-http.service"),
    *("promptlog-metrics.socket", "promptlog-metrics.service"),
)
USER_UNITS = ("promptlogd.socket", "promptlogd.service")


class UnitsError(PromptlogError):
    """The service can't be installed or removed."""


class UnitFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file. `editable`: the operator may change it, so an existing file is not overwritten."""

    path: Path
    text: str
    editable: bool = False


def system_files() -> list[UnitFile]:
    """Return the files of the system's service."""
    etc = Path("/etc")
    return [
        *(UnitFile(path=etc / "systemd/system" / name, text=_text(name)) for name in UNITS),
        UnitFile(path=etc / "sysusers.d/promptlog.conf", text=_text("promptlog.sysusers.conf")),
        UnitFile(path=etc / "tmpfiles.d/promptlog.conf", text=_text("promptlog.tmpfiles.conf")),
        UnitFile(path=etc / "promptlog/promptlog.toml", text=_text("promptlog.toml"), editable=True),
    ]


def user_files() -> list[UnitFile]:
    """Return the files of this user's own service. Raises UnitsError."""
    configuration = os.environ.get("XDG_CONFIG_HOME", "")
    folder = Path(configuration) if configuration.startswith("/") else Path.home() / ".config"
    return [
        *(UnitFile(path=folder / "systemd/user" / name, text=_text(f"user/{name}")) for name in USER_UNITS),
        UnitFile(path=folder / "promptlog/promptlog.toml", text=_text("user/promptlog.toml"), editable=True),
    ]


def check_commands(*, of_user: bool) -> None:
    """Raise UnitsError if the service could not start the commands of this installation."""
    for name in ("promptlogd", "promptlogctl"):
        path = commands_folder() / name
        if not os.access(path, os.X_OK):
            raise UnitsError(f"{path} is not there: install promptlog with pip into the environment of this Python")
        if of_user:
            continue
        for folder in _HIDDEN:
            for place in (path, Path(os.path.realpath(path)), Path(os.path.realpath(commands_folder() / "python"))):
                if place.is_relative_to(folder):
                    raise UnitsError(
                        f"{place} is in {folder}, which the service can't see; install promptlog elsewhere, for "
                        "example in an environment in /opt/promptlog: python3 -m venv /opt/promptlog"
                    )
    if not of_user:
        _check_code()


def _check_code() -> None:
    """Raise UnitsError if a user other than root can change code of the service."""
    for place in code_places():
        try:
            check_trusted_tree(place)
        except UntrustedPath as error:
            raise UnitsError(
                f"the service would execute code that another user can replace: {error.why}; or install promptlog in "
                "an environment that root makes with the system's Python: /usr/bin/python3 -m venv /opt/promptlog"
            ) from None
        except OSError as error:
            raise UnitsError(f"can't look at {error.filename or place}: {error.strerror}") from None


def code_places() -> list[Path]:
    """Return the paths of the service's code: the commands, the interpreter, its library, and all packages."""
    places = [commands_folder(), Path(sys.executable), Path(sys.prefix) / "pyvenv.cfg"]
    places += [Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    for name in ("promptlogd", "promptlogctl", "sandbox"):  # elsewhere in an editable installation
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None:
            places.append(Path(spec.origin).parent)
    return [place for place in dict.fromkeys(places) if place.exists()]


def commands_folder() -> Path:
    """Return the folder with this installation's commands."""
    return Path(sysconfig.get_path("scripts"))


def _text(name: str) -> str:
    text = (_folder() / name).read_text("utf-8")
    return text.replace(_COMMANDS, f"{_escaped(commands_folder())}/")


def _folder() -> Path:
    spec = importlib.util.find_spec("promptlogd")
    if spec is None or spec.origin is None:
        raise UnitsError("this installation has no promptlogd; install promptlog with pip")
    package = Path(spec.origin).parent
    for folder in (package / "systemd", package.parent / "systemd"):  # the second: an editable installation
        if (folder / UNITS[0]).exists():
            return folder
    raise UnitsError(f"this installation has no units in {package}/systemd; install promptlog with pip again")


def _escaped(folder: Path) -> str:
    """Return a path, escaped for ExecStart= (systemd.service(5), "Command lines"). Raises UnitsError."""
    text = str(folder)
    if any(character.isspace() or character in "\"'\\;" for character in text) or not text.isprintable():
        raise UnitsError(f"systemd can't start commands from {text!r}; install promptlog in a folder with a plain name")
    return text.replace("%", "%%")
