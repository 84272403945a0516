"""Export and import of programs, and archives that are refused."""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from promptlogctl.cli.archive import MOST_SOURCE_BYTES, BadArchive, Exported, Writer, header, read
from promptlogctl.client import Client
from tests.ctl.command import ctl
from tests.daemon.ordinary_user import NOBODY, ordinary_user
from tests.daemon.processes import a_daemon
from tests.daemons import configured_daemon

pytestmark = pytest.mark.long

_END = b"\0" * 1024
_SOURCE = b"return 1"
_HASH = hashlib.sha256(_SOURCE).hexdigest()


def _member(name: str, data: bytes) -> bytes:
    return header(name, len(data)) + data + b"\0" * (-len(data) % 512)


def _record(hash: str = _HASH, **fields: object) -> bytes:
    known = {"engine": "quickjs", "language": "javascript", "created_at": 1.5, "created_by": 0, "names": []}
    return json.dumps({"hash": hash, **known, **fields}).encode()


_FIRST = _member("promptlog-export.json", b'{"promptlog_export":1}')
_PROGRAM = _member(f"{_HASH}.json", _record()) + _member(f"{_HASH}.source", _SOURCE)


def test_export_and_import(tmp_path: Path) -> None:
    """All programs, engines, languages and names reach another daemon, and two exports are identical."""
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
    files = [tmp_path / f"{number}.tar" for number in range(3)]
    with a_daemon(tmp_path / "one") as daemon, Client(daemon.socket) as client:
        hashes = [client.submit(f"return 'é' + {number}").hash for number in range(120)]
        client.submit("return 'é' + 7", name="seven")
        client.submit("return 'é' + 7", name="another.name")
        client.submit("const n: number = 8; return n", name="typed", language="typescript")
        for file in files[:2]:
            done = ctl(daemon.socket, "export", str(file))
            assert (done.returncode, done.stdout) == (0, b""), done.stderr
        assert ctl(daemon.socket, "export", "-").stdout == files[0].read_bytes()
        shown = {row.hash: client.show(row.hash, source=True) for row in client.list()}
    assert files[0].read_bytes() == files[1].read_bytes()
    assert files[0].stat().st_mode & 0o777 == 0o600
    with tarfile.open(files[0]) as tar:
        assert len(tar.getnames()) == 1 + 2 * 121
    with a_daemon(tmp_path / "two") as daemon, Client(daemon.socket) as client:
        taken = client.submit("return 'mine'", name="seven").hash
        done = ctl(daemon.socket, "import", str(files[0]), "--json")
        assert done.returncode == 0, done.stderr
        counts = {
            "programs": 121,
            "created": 121,
            "names": 2,
            "kept_names": ["seven"],
            "refused_names": [],
            "failed": [],
        }
        assert json.loads(done.stdout) == counts
        assert client.show("@seven").hash == taken
        done = ctl(daemon.socket, "import", "-", "--move-names", input=files[0].read_bytes())
        assert b"imported 121 programs, 0 of them new, and 1 names" in done.stderr, done.stderr
        assert client.show("@seven").hash == hashes[7]
        for hash, was in shown.items():
            now = client.show(hash, source=True)
            assert (now.source, now.engine, now.language, now.names) == (
                was.source, was.engine, was.language, was.names,
            )  # fmt: skip
        assert client.run("@another.name").value == "é7"


def test_imported_programs_can_be_hidden(tmp_path: Path, socket_path: Path) -> None:
    """`import --visibility` hides imported programs and names. Without it, everyone sees them."""
    file = tmp_path / "export.tar"
    with Client(socket_path) as client:
        hash = client.submit("return 'hidden'", name="hidden").hash
        assert ctl(socket_path, "export", str(file)).returncode == 0
        client.remove(hash)
        for options, visibility in (((), "all"), (("--visibility", "own"), "own")):
            assert ctl(socket_path, "import", str(file), *options).returncode == 0
            assert [holder.visibility for holder in client.show("@hidden").holders] == [visibility]
            client.remove(hash)


def test_names_of_other_users_do_not_end_an_import(tmp_path: Path) -> None:
    """An import continues after a name that belongs to a user whose names the importing user does not see."""
    assert os.geteuid() == 0, "only root can connect as somebody else: run this test as root"
    with configured_daemon(f'[server]\nsocket_group = "{NOBODY}"\n') as socket, Client(socket) as client:
        socket.parent.chmod(0o755)
        kept = [client.submit(f"return {number}", name=f"n{number}").hash for number in range(3)]
        export = ctl(socket, "export", "-").stdout
        for hash in kept:
            client.remove(hash)
        owned = client.submit("return 'of root'", name="n1", visibility="own").hash
        command = [
            *ordinary_user(tmp_path),
            sys.executable,
            "-m",
            "promptlogctl",
            "--socket",
            str(socket),
            "import",
            "-",
        ]
        done = subprocess.run([*command, "--json"], input=export, capture_output=True, timeout=60)
        assert done.returncode == 1, done.stderr
        assert b"the name n1 belongs to another user" in done.stderr
        counts = json.loads(done.stdout)
        assert (counts["programs"], counts["names"], counts["refused_names"]) == (3, 2, ["n1"])
        assert {row.hash for row in client.list()} == {*kept, owned}


def test_a_program_with_a_syntax_error_is_refused(tmp_path: Path) -> None:
    """The daemon checks each imported program; refused programs are named, and the others are stored."""
    bad = b"return ("
    programs = sorted([(_HASH, _SOURCE), (hashlib.sha256(bad).hexdigest(), bad)])
    members = b"".join(
        _member(f"{hash}.json", _record(hash)) + _member(f"{hash}.source", text) for hash, text in programs
    )
    file = tmp_path / "x.tar"
    file.write_bytes(_FIRST + members + _END)
    with configured_daemon("") as socket, Client(socket) as client:
        done = ctl(socket, "import", str(file))
        assert done.returncode == 1
        assert hashlib.sha256(bad).hexdigest().encode() in done.stderr
        assert [row.hash for row in client.list()] == [_HASH]


@pytest.mark.parametrize(
    "fields", [{"engine": "x"}, {"language": "perl"}, {"names": ["../x"]}, {"engine": "deno" * 99}]
)
def test_invalid_records_are_refused(tmp_path: Path, socket_path: Path, fields: dict[str, Any]) -> None:
    """The daemon refuses an unknown engine or language and an invalid name, with a message."""
    file = tmp_path / "x.tar"
    file.write_bytes(_FIRST + _member(f"{_HASH}.json", _record(**fields)) + _member(f"{_HASH}.source", _SOURCE) + _END)
    done = ctl(socket_path, "import", str(file))
    assert done.returncode == 1, done.stderr
    assert _HASH.encode() in done.stderr
    assert b"Traceback" not in done.stderr


def _repacked(change: str) -> bytes:
    """Return a tar file by Python with one hostile member after the first."""
    buffer = io.BytesIO()
    form = tarfile.PAX_FORMAT if change == "pax" else tarfile.GNU_FORMAT if change == "gnu" else tarfile.USTAR_FORMAT
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        info = tarfile.TarInfo(f"{_HASH}.json")
        data = b""
        match change:
            case "symlink" | "hardlink":
                info.type = tarfile.SYMTYPE if change == "symlink" else tarfile.LNKTYPE
                info.linkname = "/etc/passwd"
            case "device":
                info.type = tarfile.CHRTYPE
            case "folder":
                info.type = tarfile.DIRTYPE
            case "fifo":
                info.type = tarfile.FIFOTYPE
            case "path":
                info.name = "../../etc/cron.d/x"
            case "absolute":
                info.name = "/etc/cron.d/x"
            case "pax" | "gnu":
                info.name = "x" * 300
            case "owner":
                info.uid, data = 7, b"{}"
                info.size = 2
        tar.addfile(info, io.BytesIO(data))
    return _FIRST + buffer.getvalue()


def _hostile() -> Iterator[tuple[str, bytes, str]]:
    for change in ("symlink", "hardlink", "device", "folder", "fifo", "pax", "gnu"):
        yield change, _repacked(change), "an export does not have"
    yield "path", _repacked("path"), "is not one that an export has"
    yield "absolute", _repacked("absolute"), "is not one that an export has"
    yield "owner", _repacked("owner"), "not one that promptlogctl export writes"
    yield "empty", b"", "ends too early"
    yield "text", b"return 1\n" * 100, "not a tar"
    yield "gzip", b"\x1f\x8b" + b"\0" * 1000, "compressed"
    yield "a short gzip", b"\x1f\x8b" + b"\0" * 10, "compressed"
    yield "two exports", (_FIRST + _PROGRAM + _END) * 2, "further data follows the end"
    yield "a byte behind the end", _FIRST + _PROGRAM + _END + b"x", "further data follows the end"
    yield "half an end", _FIRST + _PROGRAM + _END[:512], "ends too early"
    yield "padding", _FIRST + _PROGRAM[:-1] + b"x" + _END, "the padding of .* is damaged"
    yield "no end", _FIRST + _PROGRAM, "ends too early"
    yield "cut off", _FIRST + _PROGRAM[:-600], "ends too early"
    yield "no first member", _PROGRAM + _END, "first member"
    yield "version 2", _member("promptlog-export.json", b'{"promptlog_export":2}') + _END, "version 2"
    yield "twice", _FIRST + _PROGRAM + _PROGRAM + _END, "out of order"
    yield "source first", _FIRST + _member(f"{_HASH}.source", _SOURCE) + _END, "out of order"
    yield "no source", _FIRST + _member(f"{_HASH}.json", _record()) + _END, "not followed by the source"
    other = _member(f"{_HASH}.json", _record()) + _member(f"{_HASH}.source", b"return 2")
    yield "another source", _FIRST + other + _END, "do not match their hash"
    yield "bomb", _FIRST + _member(f"{_HASH}.json", _record()) + header(f"{_HASH}.source", 8**11 - 1), "the maximum is"
    yield "large record", _FIRST + header(f"{_HASH}.json", 1 << 30), "the maximum is"
    yield "deep", _FIRST + _member(f"{_HASH}.json", b"[" * 200_000), "is invalid"
    yield "not JSON", _FIRST + _member(f"{_HASH}.json", b"\xff"), "is invalid"
    yield "another type", _FIRST + _member(f"{_HASH}.json", _record(names="x")), "is invalid"
    damaged = bytearray(header(f"{_HASH}.json", 5))
    damaged[124:135] = b"-0000000001"
    yield "a size below 0", _FIRST + bytes(damaged), "is not a number"


@pytest.mark.parametrize(("data", "why"), [pytest.param(data, why, id=id) for id, data, why in _hostile()])
def test_hostile_archives_are_refused(data: bytes, why: str) -> None:
    """Paths, links, devices, extended headers, bombs, and disorder or damage are refused with a reason."""
    with pytest.raises(BadArchive, match=why):
        list(read(io.BytesIO(data)))


def test_a_valid_archive_is_read() -> None:
    """The archive from which the hostile ones are made is valid, and tarfile can read it too."""
    buffer = io.BytesIO()
    writer = Writer(buffer)
    writer.add(
        Exported(hash=_HASH, engine="quickjs", language="javascript", created_at=1.5, created_by=0, names=[]), _SOURCE
    )
    writer.end()
    assert [(program.hash, source) for program, source in read(io.BytesIO(buffer.getvalue()))] == [(_HASH, _SOURCE)]
    assert len(list(read(io.BytesIO(_FIRST + _PROGRAM + _END)))) == 1
    with tarfile.open(fileobj=io.BytesIO(buffer.getvalue())) as tar:
        member = tar.extractfile(f"{_HASH}.source")
        assert member is not None
        assert member.read() == _SOURCE


def test_an_export_replaces_no_device(tmp_path: Path, socket_path: Path) -> None:
    """A pipe is written to, a link's target is replaced, and folders and an empty path are refused."""
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    assert ctl(socket_path, "export", str(pipe)).returncode == 0
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert os.read(reader, 512) == _FIRST[:512]
    os.close(reader)
    link.symlink_to("target")
    assert ctl(socket_path, "export", str(link)).returncode == 0
    assert link.is_symlink()
    assert (tmp_path / "target").read_bytes().startswith(_FIRST)
    for wrong in (str(tmp_path), ""):
        assert ctl(socket_path, "export", wrong).returncode == 2
    assert {path.name for path in tmp_path.iterdir()} == {"pipe", "link", "target"}


def test_a_bomb_is_refused_at_its_header(tmp_path: Path, socket_path: Path) -> None:
    """A member that claims 8 GiB is refused at its header, also on standard input, and nothing is stored."""
    data = _FIRST + _member(f"{_HASH}.json", _record()) + header(f"{_HASH}.source", 8**11 - 1)
    done = ctl(socket_path, "import", "-", input=data)
    assert (done.returncode, f"the maximum is {MOST_SOURCE_BYTES}" in done.stderr.decode()) == (2, True), done.stderr
    for arguments in (["import", str(tmp_path / "none")], ["export", str(tmp_path / "none" / "x")], ["import", "/"]):
        done = ctl(socket_path, *arguments)
        assert (done.returncode, b"Traceback" in done.stderr) == (2, False), done.stderr
