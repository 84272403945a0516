"""The listening socket of an HTTP server."""

from __future__ import annotations

import errno
import grp
import ipaddress
import os
import re
import socket
import stat
from contextlib import suppress
from pathlib import Path

import click
import msgspec

DEFAULT = "127.0.0.1:8787"

_BACKLOG = 4096
_FIRST_DESCRIPTOR = 3
"""Of the sockets that systemd passes (sd_listen_fds(3))."""


class Listen(msgspec.Struct, frozen=True, kw_only=True):
    """The address of an HTTP server."""

    host: str = ""
    port: int = 0
    path: Path | None = None
    """Path of a Unix socket."""
    group: int | None = None
    """Group of a Unix socket. Default: that of its folder, or of this process (inode(7))."""
    mode: int = 0o660
    """Permissions of a Unix socket."""

    @property
    def name(self) -> str:
        """The host as in a URL and in the Host header."""
        return f"[{self.host}]" if ":" in self.host else self.host

    @property
    def is_local(self) -> bool:
        """Whether only processes of this host can connect."""
        if self.path is not None or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def parsed(ctx: click.Context, param: click.Parameter, text: str) -> Listen:
    """Parse `HOST:PORT`, `[IPV6]:PORT` or `unix:PATH`."""
    if text.startswith("unix:"):
        if not text[5:]:
            raise click.BadParameter("the path is empty; give unix:PATH")
        return Listen(path=Path(text[5:]))
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdecimal() or len(port) > 5 or int(port) > 65535:
        raise click.BadParameter(f"{text!r} is neither HOST:PORT, such as {DEFAULT}, nor unix:PATH")
    return Listen(host=host.removeprefix("[").removesuffix("]"), port=int(port))


def inherited() -> tuple[Listen, socket.socket] | None:
    """Return the listening socket of a socket unit, if this process was started for one. Raises OSError."""
    meant_for, count = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if meant_for != str(os.getpid()) or count in ("", "0"):
        return None
    if count != "1":
        raise OSError(errno.EINVAL, f"systemd passed {count} sockets; the socket unit must have one ListenStream=")
    os.set_inheritable(_FIRST_DESCRIPTOR, False)
    sock = socket.socket(fileno=_FIRST_DESCRIPTOR)
    families = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)
    if (
        sock.family not in families
        or sock.type != socket.SOCK_STREAM
        or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    ):
        raise OSError(errno.EINVAL, "systemd passed a socket that is no listening stream socket; see ListenStream=")
    address = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return Listen(path=Path(os.fsdecode(address))), sock
    return Listen(host=address[0], port=address[1]), sock


def listening(listen: Listen, *, any_port: bool) -> socket.socket:
    """Return a listening socket. Raises OSError. `any_port`: use another port if this one is in use."""
    if listen.path is not None:
        return _listening_unix(listen.path, listen.group, listen.mode)
    family, _, _, _, address = socket.getaddrinfo(listen.host, listen.port, type=socket.SOCK_STREAM)[0]
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(address)
        except OSError as error:
            if not any_port or error.errno != errno.EADDRINUSE:
                raise
            sock.bind((address[0], 0, *address[2:]))
        sock.listen(_BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _listening_unix(path: Path, group: int | None, mode: int) -> socket.socket:
    """Return a listening Unix socket. A stale socket file is replaced."""
    with suppress(FileNotFoundError):
        if stat.S_ISSOCK(path.lstat().st_mode):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                probe.settimeout(2)
                with suppress(ConnectionRefusedError):
                    probe.connect(os.fspath(path))
                    raise OSError(f"another server answers on {path}")
            path.unlink()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        previous = os.umask(0o177)
        try:
            sock.bind(os.fspath(path))
        finally:
            os.umask(previous)
        _open_to(path, group, mode)
        sock.listen(_BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _open_to(path: Path, group: int | None, mode: int) -> None:
    """Set the group and the mode of this process's new socket. Raises OSError, and removes it then."""
    # By a descriptor: another user, who may write to the folder, can't have another file changed.
    descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISSOCK(status.st_mode) or status.st_uid != os.geteuid():
            raise OSError(f"another user has replaced {path}")
        try:
            if group is not None:
                os.chown(f"/proc/self/fd/{descriptor}", -1, group)
            os.chmod(f"/proc/self/fd/{descriptor}", mode)
        except PermissionError:
            path.unlink()
            raise OSError("this user is neither root nor a member of the group of --listen-group") from None
    finally:
        os.close(descriptor)


def group_id(ctx: click.Context, param: click.Parameter, text: str | None) -> int | None:
    """Return the id of a group that is given by its name or its id."""
    if text is None:
        return None
    if text.isascii() and text.isdecimal() and len(text) <= 10 and int(text) < 2**32 - 1:
        return int(text)
    try:
        return grp.getgrnam(text).gr_gid
    except (KeyError, ValueError):
        raise click.BadParameter(f"there is no group {text[:64]!r} on this host") from None


def mode_of(ctx: click.Context, param: click.Parameter, text: str | None) -> int | None:
    """Return permissions that are given in octal digits. The owner can use the socket in any case."""
    if text is None:
        return None
    if not re.fullmatch("0?[67][0-7][0-7]", text):
        raise click.BadParameter(f"{text[:16]!r} is no mode such as 0660, with access for the owner")
    return int(text, 8)


def url_of(listen: Listen, sock: socket.socket) -> str:
    if listen.path is not None:
        return f"unix:{listen.path}"
    return f"http://{listen.name}:{sock.getsockname()[1]}/"
