"""The listening socket: its mode is right from the start, and no other user can redirect it."""

from __future__ import annotations

import grp
import os
import socket
import stat
import subprocess
import sys
import tempfile
from contextlib import aclosing
from pathlib import Path

import pytest
import trio

from promptlogd import listener
from promptlogd.listener import ListenError

STRANGER = 4711
GROUP = 4712


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_the_socket_has_its_mode_when_it_appears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int) -> None:
    """The bind sets the mode, without a chmod that could affect another file, and restores the process's umask."""
    monkeypatch.setattr(os, "chmod", None)
    monkeypatch.setattr(Path, "chmod", None)
    before = os.umask(0o027)
    try:
        listening = listener.bind(tmp_path / "s", mode)
        assert stat.S_IMODE((tmp_path / "s").lstat().st_mode) == mode
        listening.close()
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)


async def test_closed_clients_are_not_accepted(tmp_path: Path) -> None:
    """Clients that have closed their sockets are dropped; one that closed only its writing side is served."""
    path = str(tmp_path / "s")
    listening = listener.bind(Path(path), 0o600)
    for _ in range(300):
        with socket.socket(socket.AF_UNIX) as gone:
            gone.connect(path)
            gone.sendall(b"gone")
    with socket.socket(socket.AF_UNIX) as waits:
        waits.connect(path)
        waits.sendall(b"waits")
        waits.shutdown(socket.SHUT_WR)
        with trio.fail_after(10):
            async with aclosing(listener.accept(listening.sock)) as clients:
                async for client in clients:
                    with client:
                        assert client.recv(100) == b"waits"
                    break
    listening.close()


def test_a_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    """The daemon refuses a folder whose owner could replace the socket, gives advice, and creates nothing."""
    assert os.geteuid() == 0, "this test makes a folder of another user: run it as root"
    folder = tmp_path / "strange"
    folder.mkdir()
    listener.bind(folder / "s", 0o600).close()
    os.chown(folder, STRANGER, STRANGER)
    with pytest.raises(ListenError, match=f"belongs to uid {STRANGER}.*; or give --socket"):
        listener.bind(folder / "s", 0o600)
    with pytest.raises(ListenError, match=f"belongs to uid {STRANGER}"):
        listener.bind(folder / "deeper/s", 0o600)
    assert not list(folder.iterdir())


def test_a_set_group_id_folder_gives_the_socket_to_its_group() -> None:
    """Members of the folder's group can connect, as docs/security.md describes, and other users cannot."""
    assert os.geteuid() == 0, "this test connects as other users: run it as root"
    with tempfile.TemporaryDirectory(prefix="promptlog-") as name:  # other users cannot enter pytest's folders
        os.chmod(name, 0o755)
        folder = Path(name, "group")
        folder.mkdir()
        os.chown(folder, 0, GROUP)
        folder.chmod(0o2750)
        listening = listener.bind(folder / "s", 0o660)
        try:
            script = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
            for groups, code in ((f"--groups={GROUP}", 0), ("--clear-groups", 1)):
                become = ["setpriv", f"--reuid={STRANGER}", f"--regid={STRANGER}", groups]
                kept = "-all,+dac_read_search"  # to read a Python below root's home; connect(2) needs other rights
                become += [f"--inh-caps={kept}", f"--ambient-caps={kept}", f"--bounding-set={kept}"]
                done = subprocess.run(
                    [*become, sys.executable, "-c", script, folder / "s"], capture_output=True, timeout=60
                )
                assert done.returncode == code, done.stderr
        finally:
            listening.close()


def test_a_world_writable_folder_must_be_sticky(tmp_path: Path) -> None:
    """A socket in a world-writable folder could be replaced, unless the folder is sticky as /tmp is."""
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(ListenError, match="every user can write to"):
        listener.bind(folder / "s", 0o600)
    folder.chmod(0o1777)
    listener.bind(folder / "s", 0o600).close()


def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    """A socket file without a process behind it is replaced; if a process answers there, the daemon does not start."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    listening = listener.bind(path, 0o600)
    with pytest.raises(ListenError, match="another daemon answers"):
        listener.bind(path, 0o600)
    listening.close()
    assert not path.exists()


def test_the_socket_can_belong_to_a_group(tmp_path: Path) -> None:
    """The socket gets the group that the option gives by name or id, and its mode. An unknown group is an error."""
    own = grp.getgrgid(os.getegid())
    ids = {own.gr_name: own.gr_gid, str(own.gr_gid): own.gr_gid}
    if os.geteuid() == 0:
        ids[str(GROUP)] = GROUP
    for group, group_id in ids.items():
        listening = listener.bind(tmp_path / "s", 0o660, group)
        status = (tmp_path / "s").lstat()
        assert (status.st_gid, stat.S_IMODE(status.st_mode)) == (group_id, 0o660)
        listening.close()
    with pytest.raises(ListenError, match="there is no group 'no-such-group'; create it"):
        listener.bind(tmp_path / "s", 0o660, "no-such-group")
    assert not (tmp_path / "s").exists()


def test_a_group_that_the_user_may_not_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user who may not give the socket to the group gets an error, and no socket is left."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "chown", refuse)
    with pytest.raises(
        ListenError, match="to the group 4712: the daemon's user must be root, or a member of the group"
    ):
        listener.bind(tmp_path / "s", 0o660, "4712")
    assert not (tmp_path / "s").exists()
