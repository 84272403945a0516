"""Starts a QuickJS cell."""

from __future__ import annotations

import os
import socket
import subprocess
from contextlib import ExitStack, suppress

import trio

from sandbox.cells import priority
from sandbox.cells.cell import START_S
from sandbox.cells.plan import Plan
from sandbox.cells.process import LAUNCH, lists_children, only_child, watch_only_child
from sandbox.cells.reactor import Reactor
from sandbox.cells.watch import Watch
from sandbox.engines.host.sockets import make_room
from sandbox.engines.quickjs.host.cell import KILL_S, QuickJSCell
from sandbox.engines.quickjs.host.control import READY, REPORT_BYTES
from sandbox.errors import CellStartError, WatchdogError
from sandbox.jail.cell_cgroup import JailGroup
from sandbox.jail.identities import Identity

_NO_SIGNAL = "0"
"""Argument of `launch`: without a parent-death signal, which the kernel would send when the thread that starts nsjail
ends. When the daemon ends, control is closed, and the jail ends."""


async def start(plan: Plan, reactor: Reactor) -> QuickJSCell:
    """Start a cell and wait until its first blank child is ready. Takes about 10 ms.

    Raises CellStartError with what nsjail or the zygote reported.
    """
    with ExitStack() as opened:  # undoes everything if a step fails, for example for lack of descriptors
        try:
            data, their_data = map(opened.enter_context, socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM))
            control, their_control = map(opened.enter_context, socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            make_room(data)
            room_bytes = make_room(their_data)
            identity = plan.take_identity()
            opened.callback(plan.identities.give_back, identity)
            group = None if plan.cgroup is None else plan.cgroup.jail()
            if group is not None:
                opened.callback(group.discard)
            command = [str(plan.executable), *plan.arguments_for(identity, group)]
            if lists_children() and priority.can_restore():  # otherwise the cell would keep its low priority
                # If the daemon lowered the priority after the start, nsjail would first keep its core for up to 4 ms,
                # and this is often the core of the event loop.
                command = [str(LAUNCH), "-n", str(priority.low()), _NO_SIGNAL, "--", *command]
            process = await trio.lowlevel.open_process(
                command,
                stdin=their_data,
                stdout=their_control,
                stderr=subprocess.PIPE,
                cwd=plan.folder,
                env={},
                # A separate process group, so that Ctrl-C at the daemon's terminal reaches only the daemon. Not a
                # separate session: with autogrouping (sched(7)), niceness has an effect only among processes of one
                # session.
                process_group=0,
                **plan.process_options,
            )
        except OSError as error:
            raise CellStartError(plan.engine, f"{plan.executable}: {error}") from error
        opened.pop_all()
    their_data.close()
    their_control.close()
    data.setblocking(False)
    control.setblocking(False)
    ready = False
    try:
        with trio.move_on_after(START_S):
            await trio.lowlevel.wait_readable(control)
            ready = control.recv(REPORT_BYTES) == READY
        if not ready:
            raise CellStartError(plan.engine, await _last_words(process))
        watch = reactor.watchdog.watch()
        try:
            zygote = _follow(process, watch)
        except BaseException:
            watch.close()
            raise
        cell = QuickJSCell(plan, identity, process, reactor, data, control, watch, group, zygote, room_bytes)
    except BaseException as error:
        await _abandon(plan, identity, process, data, control, group)
        if isinstance(error, OSError):
            raise CellStartError(plan.engine, error.strerror or str(error)) from error
        if isinstance(error, WatchdogError):
            raise CellStartError(plan.engine, str(error)) from error
        raise
    if priority.can_restore():
        cell.restore_priority()
    return cell


def _follow(process: trio.Process, watch: Watch) -> int | None:
    """Have the watchdog watch the jail, and return the zygote's pid; None if this kernel has no `children` file.

    In that case, the watchdog kills the whole jail instead of a child. Raises OSError.
    """
    try:
        return watch_only_child(process.pid, watch)
    except (OSError, ValueError):
        watch.follow(process.pid, os.pidfd_open(process.pid), forks=False)
        return None


async def _abandon(
    plan: Plan,
    identity: Identity,
    process: trio.Process,
    data: socket.socket,
    control: socket.socket,
    group: JailGroup | None,
) -> None:
    """End the jail of a failed start."""
    zygote: int | None = None
    with suppress(OSError, ValueError):
        zygote = only_child(process.pid)
    data.close()
    trio.lowlevel.notify_closing(control)
    control.close()
    with trio.CancelScope(shield=True, deadline=trio.current_time() + KILL_S):
        if process.stderr is not None:
            await process.stderr.aclose()
        process.kill()
        await process.wait()
        plan.identities.give_back(identity)
        if group is not None:
            await group.remove(zygote)


async def _last_words(process: trio.Process) -> str:
    text = b""
    assert process.stderr is not None
    with trio.move_on_after(KILL_S):
        async for part in process.stderr:
            text += part
            if len(text) > 4096:
                break
    last = text.decode("utf-8", "replace").strip().splitlines()[-3:]
    return " / ".join(last) or "it did not become ready and printed nothing; try: promptlogctl doctor"
