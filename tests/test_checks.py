"""From a source to its artifact, with a simulated cell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from promptlogd.checks import Checks
from promptlogd.config import Config
from promptlogd.principal import Principal
from promptlogd.refusal import RequestError
from promptlogd.runs import Ended, PendingRun, Runs
from promptlogd.settings import Settings
from sandbox.cells.job import Job, Result
from sandbox.engines.host.engine_host import EngineHost
from sandbox.outcome import Usage
from sandbox.program import Artifact, Form, Language
from sandbox.protocol.events import Checked

_USAGE = Usage(cpu_ms=1.0, wall_ms=1.0, peak_memory_bytes=1)
_PRINCIPAL = Principal(connection=1, uid=0, process=None)


class _Runs(Runs):
    """Ends each run at once."""

    def __init__(self, answer: Callable[[Job], Checked | RequestError]) -> None:
        self._answer = answer

    def start(self, job: Job, principal: Principal, ended: Ended, **options: Any) -> PendingRun:
        answer = self._answer(job)
        ended(answer if isinstance(answer, RequestError) else Result(outcome=answer, usage=_USAGE))
        return cast(PendingRun, None)


class _Host:
    """Makes artifacts at once, but only if there is bytecode."""

    def artifact_bytes(self, source: bytes) -> int:
        return 100

    def artifact_at_once(self, language: Language, checked: Checked) -> Artifact | None:
        if checked.code is None:
            return None
        return Artifact(form=Form.BODY, language=language, code=bytes(checked.code))

    async def artifact(self, source: bytes, language: Language, checked: Checked) -> Artifact:
        return self.artifact_at_once(language, checked) or Artifact(form=Form.BODY, language=language)


def _checks(answer: Callable[[Job], Checked | RequestError], config: Config | None = None) -> Checks:
    return Checks(_Runs(answer), {"quickjs": cast(EngineHost, _Host())}, Settings(config or Config()))


async def test_a_check_without_time_for_bytecode_is_repeated() -> None:
    """A short source is first checked with a run's CPU limit, and if this gives no bytecode, with that of checks."""
    jobs: list[Job] = []

    def answer(job: Job) -> Checked:
        jobs.append(job)
        return Checked(module=False, code=b"code" if len(jobs) > 1 else None)

    config = Config()
    made = await _checks(answer, config).artifact(b"return 1", "quickjs", "javascript", _PRINCIPAL)
    assert made.code == b"code"
    assert [job.limits.cpu_ms for job in jobs] == [config.default_limits("quickjs").cpu_ms, config.limits.check_cpu_ms]


@pytest.mark.parametrize("code", [b"code", None], ids=["complete", "without bytecode"])
async def test_a_ready_artifact_is_passed_on_at_once(code: bytes | None) -> None:
    """The caller gets the artifact when the cell has answered, without a task. An incomplete one is not passed on."""
    ready: list[Artifact] = []
    checks = _checks(lambda job: Checked(module=False, code=code))
    started = checks.start(b"return 1", "quickjs", "javascript", _PRINCIPAL, ready.append)
    assert started.has_ended
    artifact = Artifact(form=Form.BODY, language="javascript", code=code)
    assert ready == ([] if code is None else [artifact])
    assert await started.artifact() == artifact


async def test_a_refused_check() -> None:
    """A check that is refused at once passes on nothing, and its caller gets the refusal."""
    ready: list[Artifact] = []
    started = _checks(lambda job: RequestError("busy", "no")).start(
        b"return 1", "quickjs", "javascript", _PRINCIPAL, ready.append
    )
    assert started.has_ended
    with pytest.raises(RequestError, match="no"):
        await started.artifact()
    assert ready == []
