"""Integration with systemd: socket activation, readiness, status and watchdog pings.

sd_listen_fds(3), sd_notify(3), sd_watchdog_enabled(3). Without systemd, nothing here has an effect.
"""

from __future__ import annotations

import logging
import os
import socket
import stat
import time
from collections.abc import MutableMapping

from promptlogd.listener import ListenError

_log = logging.getLogger(__name__)
_FIRST_DESCRIPTOR = 3
_STATUS_S = 10.0
"""Interval of status messages, unless the watchdog needs a shorter one."""


class Notifier:
    """Sends sd_notify(3) messages. A message that cannot be sent is dropped."""

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        """Remove the variables from the environment, so that child processes send no messages."""
        path = environment.pop("NOTIFY_SOCKET", "")
        watchdog_us = environment.pop("WATCHDOG_USEC", "")
        watched_pid = environment.pop("WATCHDOG_PID", str(os.getpid()))
        self._address = "\0" + path[1:] if path.startswith("@") else path
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) if path else None
        self.interval_s: float = _STATUS_S
        """Interval at which to call `alive`."""
        if watchdog_us.isdecimal() and int(watchdog_us) > 0 and watched_pid == str(os.getpid()):
            self.interval_s = min(_STATUS_S, int(watchdog_us) / 2e6)

    @property
    def is_wanted(self) -> bool:
        """Whether systemd expects messages."""
        return self._sock is not None

    def ready(self) -> None:
        """Tell systemd that the daemon serves clients."""
        self._send("READY=1")

    def reloading(self) -> None:
        """Tell systemd that the settings are read again. `ready` ends that."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def alive(self, status: str) -> None:
        """Send a watchdog ping and a one-line status. Call this from the event loop that serves clients."""
        self._send(f"WATCHDOG=1\nSTATUS={status}")

    def stopping(self) -> None:
        """Tell systemd that the daemon is stopping."""
        self._send("STOPPING=1")

    def close(self) -> None:
        """Close the socket. Nothing is sent from now on."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def _send(self, state: str) -> None:
        if self._sock is not None:
            try:
                self._sock.sendto(state.encode(), self._address)
            except OSError as error:
                _log.debug("could not send %r to systemd: %s", state, error)


def inherited_socket(environment: MutableMapping[str, str]) -> socket.socket | None:
    """Return the listening socket of a socket unit, if this process was started for one. Raises ListenError."""
    meant_for = environment.pop("LISTEN_PID", "")
    count = environment.pop("LISTEN_FDS", "")
    environment.pop("LISTEN_FDNAMES", None)
    if meant_for != str(os.getpid()) or count in ("", "0"):
        return None
    if count != "1":
        raise ListenError(f"systemd passed {count} sockets; the socket unit must have exactly one ListenStream=")
    try:
        os.set_inheritable(_FIRST_DESCRIPTOR, False)
        sock = socket.socket(fileno=_FIRST_DESCRIPTOR)
        listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise ListenError(f"systemd passed no socket on descriptor {_FIRST_DESCRIPTOR}: {error.strerror}") from None
    if (sock.family, sock.type) != (socket.AF_UNIX, socket.SOCK_STREAM) or not listens:
        raise ListenError("systemd passed a socket that is not a listening Unix stream socket; see ListenStream=")
    _check_permissions(sock.getsockname())
    sock.setblocking(False)
    return sock


def _check_permissions(path: str | bytes) -> None:
    """Raise ListenError for a socket to which every user may connect. systemd's default mode is 0666."""
    mend = "set SocketMode=0600 in the socket unit, or 0660 with SocketGroup="
    if not path or os.fsencode(path).startswith(b"\0"):
        raise ListenError("systemd passed a socket without a file, to which every user may connect; name a path")
    try:
        mode = os.lstat(path).st_mode
    except OSError as error:
        raise ListenError(f"can't read the mode of {os.fsdecode(path)}: {error.strerror}") from None
    if mode & 0o007:
        raise ListenError(f"every user may connect to {os.fsdecode(path)} (mode {stat.S_IMODE(mode):04o}); {mend}")
