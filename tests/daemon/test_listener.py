"""The listening socket: its mode from the first moment on, and only in a folder that nobody else can redirect."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from promptlogd import listener
from promptlogd.listener import ListenError

STRANGER = 4711


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_the_socket_has_its_mode_when_it_appears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int) -> None:
    """No chmod comes after the bind, which could hit another file, and the process's umask is as it was."""
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


def test_a_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    """The owner of the folder could put a link in the socket's place: refused, with what to do, and nothing is made."""
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


def test_a_folder_that_all_may_write_to_must_be_sticky(tmp_path: Path) -> None:
    """In a folder open to all the socket could be replaced, unless the folder is sticky as /tmp is."""
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(ListenError, match="can be written to by every user"):
        listener.bind(folder / "s", 0o600)
    folder.chmod(0o1777)
    listener.bind(folder / "s", 0o600).close()


def test_a_stale_socket_is_replaced_and_a_living_one_is_not(tmp_path: Path) -> None:
    """A socket file without a process behind it is removed; where somebody answers the daemon does not start."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    listening = listener.bind(path, 0o600)
    with pytest.raises(ListenError, match="another daemon answers"):
        listener.bind(path, 0o600)
    listening.close()
    assert not path.exists()
