"""Which socket a client connects to, and whether to trust the process that answers there."""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
from pathlib import Path

import msgspec

from promptlogctl.client.errors import NoDaemon, UntrustedDaemon
from promptlogd.wire.paths import default_paths

_CREDENTIALS = struct.Struct("3i")
"""pid, uid, gid (unix(7), SO_PEERCRED)."""

_PATH_BYTES = 107
"""Maximum length of a Unix socket's path (unix(7))."""

_NAME_ANOTHER = "name the daemon's socket with --socket or $PROMPTLOG_SOCKET"


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """The path of a daemon's socket. `explicit`: the user chose this path, and trusts any daemon that answers there."""

    path: Path
    explicit: bool

    def check_peer(self, sock: socket.socket) -> None:
        """Check the peer of a connected socket. Raises UntrustedDaemon.

        On a default path, the daemon must run as root or as this user.
        """
        if self.explicit:
            return
        uid: int = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))[1]
        if uid not in (0, os.geteuid()):
            raise UntrustedDaemon(str(self.path), uid)

    def no_daemon(self, error: OSError) -> NoDaemon:
        """Return the error for a failed connect(2): no daemon, or a path that cannot be a socket's."""
        path = str(self.path)
        length = len(os.fsencode(path))
        if length > _PATH_BYTES:
            why = f"the path has {length} bytes, the maximum for a socket is {_PATH_BYTES}"
            return NoDaemon(path, why, f"{_NAME_ANOTHER}, with a shorter path")
        also = None if self.explicit else _system_socket(self.path)
        if isinstance(error, PermissionError):
            why, mend = _denied(self.path)
            return NoDaemon(path, why, mend if also is None else f"{mend}; or use the system's daemon: --socket {also}")
        try:
            mode = self.path.stat().st_mode
        except NotADirectoryError:
            return NoDaemon(path, "a component of the path is not a folder", _NAME_ANOTHER)
        except (OSError, ValueError):
            mode = stat.S_IFSOCK
        if stat.S_ISDIR(mode):
            return NoDaemon(path, "it is a folder, not a socket", f"{_NAME_ANOTHER}, for example {path}/promptlog.sock")
        if not stat.S_ISSOCK(mode):
            return NoDaemon(path, "it is a file, not a socket", _NAME_ANOTHER)
        if error.errno == errno.EPROTOTYPE:
            return NoDaemon(path, "it is a socket of another type", _NAME_ANOTHER)
        return NoDaemon(path, error.strerror or str(error), also=also)


def _system_socket(own: Path) -> str | None:
    """Return the socket of the system's daemon, if it exists and is not this user's own."""
    shared = default_paths(0, {}).socket
    return str(shared) if shared != own and os.path.exists(shared) else None


def _denied(path: Path) -> tuple[str, str]:
    """Return (reason, fix) for a path that this user may not connect to, with owner and mode of the closed
    component."""
    for part in (*reversed(path.absolute().parents), path):
        try:
            status = part.stat()
        except OSError:
            break
        wanted = os.R_OK | os.W_OK if part == path else os.X_OK
        if not os.access(part, wanted, effective_ids=True):
            owner = f"uid {status.st_uid}, group {status.st_gid}, mode {stat.S_IMODE(status.st_mode):04o}"
            what = "the socket" if part == path else f"the folder {part}"
            mend = f"run the command as uid {status.st_uid}, or ask that user for access"
            group_may = 0o060 if part == path else 0o010
            if status.st_gid and status.st_mode & group_may == group_may:
                mend += f": usermod --append --groups {_group_name(status.st_gid)} {_user_name(os.geteuid())}"
                mend += ", then log in again"
            elif part == path:
                mend += " (server.socket_group in the daemon's configuration)"
            return f"permission denied to uid {os.geteuid()}: {what} belongs to {owner}", mend
    return f"permission denied to uid {os.geteuid()}", _NAME_ANOTHER


def _group_name(gid: int) -> str:
    import grp  # here and below: only errors need these modules

    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _user_name(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def find_endpoint(path: str | os.PathLike[str] | None = None) -> Endpoint:
    """Return the endpoint at this path, else at $PROMPTLOG_SOCKET, else at the default path of this user's daemon.

    Raises ValueError for an empty path.
    """
    if path is not None and not os.fspath(path):
        raise ValueError("the path of the socket is empty")
    chosen = path if path is not None else os.environ.get("PROMPTLOG_SOCKET") or None
    if chosen is not None:
        return Endpoint(path=Path(chosen), explicit=True)
    return Endpoint(path=default_paths(os.geteuid(), os.environ).socket, explicit=False)
