"""From a source to its artifact, with a simulated cell."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

from promptlogd.checks import Checks
from promptlogd.config import Config
from promptlogd.principal import Principal
from promptlogd.runs import Runs
from promptlogd.settings import Settings
from sandbox.cells.job import Job, Result
from sandbox.engines.host.engine_host import EngineHost
from sandbox.outcome import Usage
from sandbox.program import Artifact, Form, Language
from sandbox.protocol.events import Checked

_USAGE = Usage(cpu_ms=1.0, wall_ms=1.0, peak_memory_bytes=1)


async def test_a_check_without_time_for_bytecode_is_repeated() -> None:
    """A short source is first checked with a run's CPU limit, and if this gives no bytecode, with that of checks."""
    jobs: list[Job] = []

    async def finish(job: Job, principal: Principal) -> Result:
        jobs.append(job)
        return Result(outcome=Checked(module=False, code=b"code" if len(jobs) > 1 else None), usage=_USAGE)

    async def artifact(source: bytes, language: Language, checked: Checked) -> Artifact:
        return Artifact(form=Form.BODY, language=language, code=cast(bytes, checked.code))

    host = SimpleNamespace(artifact_bytes=lambda source: 100, artifact=artifact)
    config = Config()
    checks = Checks(cast(Runs, SimpleNamespace(finish=finish)), {"quickjs": cast(EngineHost, host)}, Settings(config))
    principal = Principal(connection=1, uid=0, process=None)
    made = await checks.artifact(b"return 1", "quickjs", "javascript", principal)
    assert made.code == b"code"
    assert [job.limits.cpu_ms for job in jobs] == [config.default_limits("quickjs").cpu_ms, config.limits.check_cpu_ms]
