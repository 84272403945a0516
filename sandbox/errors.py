"""Errors of the sandbox itself. What a program does is an outcome, not an error."""

from __future__ import annotations


class SandboxError(Exception):
    """Root of this package's errors."""


class CellStartError(SandboxError):
    """A cell did not become ready."""

    def __init__(self, engine: str, why: str) -> None:
        super().__init__(f"a {engine} cell did not start: {why}")
        self.engine = engine
        self.why = why


class SettingError(SandboxError):
    """This host does not support the configuration."""


class CellLost(SandboxError):
    """A blank cell died before its run was handed over. Another cell can execute the run."""


class WatchdogError(SandboxError):
    """The watchdog cannot be started, or cannot watch another cell."""

    def __init__(self, why: str) -> None:
        super().__init__(f"the watchdog: {why}")
        self.why = why
