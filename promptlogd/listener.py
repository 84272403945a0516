"""The listening Unix socket: binds it safely, accepts clients, unlinks it. It does not read from clients."""

from __future__ import annotations

import errno
import grp
import logging
import os
import select
import socket
import stat
from collections.abc import AsyncGenerator
from pathlib import Path

import trio

from sandbox.trusted_path import UntrustedPath, make_folders

_log = logging.getLogger(__name__)
_BACKLOG = 1024
_PATH_BYTES = 107
_TURN_S = 0.001
"""Loop time for new clients in one turn: 10 of them, or 60 that have already disconnected."""


class ListenError(Exception):
    """The socket cannot be bound."""


class Listening:
    """A listening socket. `close` removes its file if `owns_file`."""

    def __init__(self, sock: socket.socket, path: Path, *, owns_file: bool = True) -> None:
        self.sock = sock
        self.path = path
        self._file = None
        if owns_file:
            status = path.lstat()
            self._file = (status.st_dev, status.st_ino)

    def close(self) -> None:
        """Close the socket, and remove its file if it is still this socket's."""
        if self._file is not None:
            self._remove_file()
        self.sock.close()

    def _remove_file(self) -> None:
        try:
            status = self.path.lstat()
            if (status.st_dev, status.st_ino) == self._file:
                self.path.unlink()
        except OSError:
            pass


def bind(path: Path, mode: int, group: str | None = None) -> Listening:
    """Bind a listening socket with these permissions. A stale socket file is probed first, then replaced.

    `group`: name or id of the group of the socket. Default: the folder's or the daemon's (inode(7)). Raises ListenError
    if another daemon answers there, if the path is not a socket, or if the folder cannot be used. A folder that another
    user can redirect is refused, because that user could replace the socket.
    """
    if len(os.fsencode(path)) > _PATH_BYTES:
        raise ListenError(f"the socket path {path} is longer than {_PATH_BYTES} bytes (unix(7)); give --socket")
    group_id = None if group is None else _group_id(group)
    try:
        make_folders(path.parent, 0o755 if os.geteuid() == 0 else 0o700)
        _clear(path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            # Without a group, the file has its final mode from the start (unix(7)). With a group, it starts as 0600.
            previous = os.umask(0o777 & ~mode if group_id is None else 0o177)
            try:
                sock.bind(os.fspath(path))
            finally:
                os.umask(previous)
            if group_id is not None:
                _set_group(path, group_id, mode, group)
            sock.listen(_BACKLOG)
            return Listening(sock, path)
        except BaseException:
            sock.close()
            raise
    except UntrustedPath as error:
        raise ListenError(f"can't listen on {path}: {error.why}; or give --socket") from error
    except OSError as error:
        raise ListenError(f"can't listen on {path}: {error.strerror or error}") from error


def _group_id(group: str) -> int:
    if group.isascii() and group.isdecimal() and int(group) < 2**32 - 1:
        return int(group)
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise ListenError(f"there is no group {group!r}; create it, or change server.socket_group") from None


def _set_group(path: Path, group_id: int, mode: int, group: str | None) -> None:
    """Set the group and the mode of the new socket file. `group`: as configured, for messages.

    This is safe after bind(2), because the folder was checked: only root and the daemon's user can replace the file.
    """
    try:
        os.chown(path, -1, group_id, follow_symlinks=False)
        path.chmod(mode)
    except PermissionError:
        path.unlink()
        why = "the daemon's user must be root, or a member of the group"
        raise ListenError(f"can't give {path} to the group {group}: {why}") from None


def _clear(path: Path) -> None:
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise ListenError(f"{path} exists and is not a socket; remove it or give --socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(2)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except FileNotFoundError:
            return
    raise ListenError(f"another daemon answers on {path}; stop it or give --socket")


async def accept(sock: socket.socket) -> AsyncGenerator[socket.socket, None]:
    """Yield clients' sockets. If descriptors run out, wait and try again.

    Accept several in one turn of the loop, because a client waits until all earlier ones are accepted. Drop clients
    that have already disconnected, whatever they sent.
    """
    while True:
        await trio.lowlevel.wait_readable(sock)
        ends = trio.current_time() + _TURN_S
        while trio.current_time() < ends:
            try:
                client, _ = sock.accept()
            except BlockingIOError:
                break
            except ConnectionAbortedError:
                continue
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    raise
                _log.warning("can't accept a client now: %s", error.strerror)
                await trio.sleep(0.1)
                break
            if _has_left(client):
                client.close()
                continue
            client.setblocking(False)
            yield client


def _has_left(client: socket.socket) -> bool:
    """Whether a client has closed its socket, not only its writing side."""
    poll = select.poll()
    poll.register(client, 0)  # only POLLHUP
    return bool(poll.poll(0))
