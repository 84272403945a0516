"""Deno through the daemon: a program's engine, starting the pool on demand, and hosts without Deno."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from promptlogctl.client import Client, Engine, RequestRefused
from promptlogd.wire.messages import LimitsAsked
from sandbox.outcome import CpuLimit, MemoryLimit
from tests.daemon.processes import a_daemon, jailed_denos, until
from tests.daemons import configured_daemon

WHICH = "return typeof Intl === 'undefined' ? 'quickjs' : 'deno'"


def test_the_engine_is_stored_with_the_program(tmp_path: Path) -> None:
    """A run uses the program's own engine unless it names one, also after a restart and the loss of the database."""
    with a_daemon(tmp_path) as daemon, Client(daemon.socket) as client:
        kept = client.submit(f"{WHICH} // 1", engine="deno")
        typed = client.submit("const n: number = 7; return n", language="typescript")
        plain = client.submit(f"{WHICH} // 2")
        assert (kept.engine, typed.engine, plain.engine) == ("deno", "deno", "quickjs")
        assert client.run(kept.hash).value == "deno"
        assert client.run(kept.hash, engine="quickjs").value == "quickjs"
        assert client.run(plain.hash).value == "quickjs"
        assert client.run(plain.hash, engine="deno").value == "deno"
        assert client.run(typed.hash).value == 7
        with pytest.raises(RequestRefused, match="needs the engine deno"):
            client.run(typed.hash, engine="quickjs")
        assert client.show(typed.hash).language == "typescript"
        assert {row.engine for row in client.list()} == {"quickjs", "deno"}
    for path in daemon.state.glob("facts.sqlite3*"):
        path.unlink()
    with a_daemon(tmp_path) as daemon, Client(daemon.socket) as client:
        assert client.run(kept.hash).value == "deno"
        assert client.run(typed.hash).value == 7
        assert client.run(plain.hash).value == "quickjs"
        (artifact,) = (daemon.state / "programs" / typed.hash[:2] / typed.hash[2:]).glob("artifact.deno.*")
        artifact.write_bytes(b"damaged")
        assert client.run(typed.hash).value == 7
        (daemon.state / "programs" / typed.hash[:2] / typed.hash[2:] / "meta.json").write_bytes(b"damaged")
        (daemon.state / "programs" / kept.hash[:2] / kept.hash[2:] / "meta.json").unlink()
    for path in daemon.state.glob("facts.sqlite3*"):
        path.unlink()
    with a_daemon(tmp_path) as daemon, Client(daemon.socket) as client:
        # The artifact names the engine too.
        assert client.run(kept.hash).value == "deno"
        assert client.run(typed.hash).value == 7
        assert client.show(typed.hash).language == "typescript"


def test_one_program_has_one_engine(client: Client) -> None:
    """The same bytes for another engine are refused with advice; a submit without an engine finds the program."""
    source = f"{WHICH} // one engine"
    hash = client.submit(source, engine="deno", name="one-engine").hash
    with pytest.raises(RequestRefused, match="already stored as javascript for deno") as refused:
        client.submit(source, engine="quickjs", name="moved")
    assert refused.value.detail["hash"] == hash
    with pytest.raises(RequestRefused, match="no program"):
        client.run("@moved")
    again = client.submit(source)
    assert (again.hash, again.created, again.engine) == (hash, False, "deno")


def test_syntax_errors_at_submit(client: Client) -> None:
    """The program's own engine rejects a syntax error at submit, with its place."""
    client.submit("const n: number = 1; return n", language="typescript")
    with pytest.raises(RequestRefused, match="SyntaxError"):
        client.submit("const n: number = 1; return n")
    with pytest.raises(RequestRefused, match="SyntaxError") as refused:
        client.submit("\nconst n: number = ;", language="typescript")
    assert (refused.value.detail["line"], refused.value.detail["column"]) == (2, 19)
    with pytest.raises(RequestRefused, match=r"nested too deeply|took more"):
        client.submit("(" * 300_000 + ")" * 300_000, engine="deno")
    with pytest.raises(RequestRefused, match=r"nested too deeply|took more"):
        client.submit("(" * 300_000 + ")" * 300_000, language="typescript")


@pytest.mark.parametrize(
    ("source", "language", "says"),
    [
        ('import "data:text/javascript,for(;;){}";\nexport default () => 1', "javascript", None),
        ('}); import "data:text/javascript,for(;;){}"; (async function () {', "javascript", "cannot import"),
        ('}); import "data:text/javascript,for(;;){}"; (async function () {', "typescript", "Expected ','"),
    ],
)
def test_a_check_runs_no_code(client: Client, source: str, language: Any, says: str | None) -> None:
    """A check does not run what a program imports, though the import's loop would use up the CPU time of a run."""
    if says is None:
        client.submit(source, engine="deno", language=language)
        assert isinstance(client.run_source(source, engine="deno", language=language).outcome, CpuLimit)
    else:
        with pytest.raises(RequestRefused, match="SyntaxError") as refused:
            client.submit(source, engine="deno", language=language)
        assert says in str(refused.value)


def test_concurrent_submits_for_two_engines(client: Client) -> None:
    """If the same new text is submitted for two engines at once, one submit succeeds and the other is refused."""
    kept: list[str] = []
    refused: list[str] = []

    def submit(engine: Any) -> None:
        with Client(client.socket_path) as own:
            try:
                kept.append(own.submit("return 'at once'", engine=engine).engine)
            except RequestRefused as error:
                refused.append(error.message)

    threads = [threading.Thread(target=submit, args=(engine,)) for engine in ("deno", "quickjs", "deno", "quickjs")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert kept in (["deno"] * 2, ["quickjs"] * 2)
    assert len(refused) == 2
    assert all(f"stored as javascript for {kept[0]};" in message for message in refused), refused


def _root_of(nsjail: int) -> Path:
    """Return the root folder of an nsjail's jail, from its command line."""
    arguments = Path(f"/proc/{nsjail}/cmdline").read_bytes().split(b"\0")
    return Path(os.fsdecode(arguments[arguments.index(b"--bindmount_ro") + 1]).removesuffix(":/"))


def test_no_deno_starts_before_the_first_deno_run(tmp_path: Path) -> None:
    """The daemon starts no Deno process, and makes no root for its jails, before the first run on Deno."""
    with a_daemon(tmp_path) as daemon, Client(daemon.socket) as client:
        client.run_source("return 1")
        assert jailed_denos(daemon) == []
        (pool,) = (pool for pool in client.stats().pools if pool.engine == "deno")
        assert (pool.size, pool.started) == (0, 0)
        before = tmp_path / "before"
        before.touch()
        assert client.run_source(WHICH, engine="deno").value == "deno"
        found: list[tuple[int, int]] = []

        def look() -> bool:
            found[:] = jailed_denos(daemon)
            return found != []

        until(look)  # the next process of the cell starts, or that of the run still ends
        nsjail = found[0][0]
        assert _root_of(nsjail).stat().st_ctime_ns >= before.stat().st_ctime_ns


def test_without_deno_the_error_says_how_to_install_it(tmp_path: Path) -> None:
    """Without the package, a run on Deno is `unsupported` and names the command that installs it; QuickJS works."""
    (tmp_path / "deno.py").write_text("raise ImportError('not here')\n")
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])
    with configured_daemon("", environment={"PYTHONPATH": path}) as socket, Client(socket) as client:
        for _ in range(2):
            with pytest.raises(RequestRefused, match="pip install 'deno>=2") as refused:
                client.run_source("return 1", engine="deno")
            assert refused.value.code == "unsupported"
        assert client.run_source("return 1").value == 1


def test_jit_always_is_refused_without_a_cgroup(tmp_path: Path) -> None:
    """The daemon does not start, and names the reason and the remedy."""
    config = tmp_path / "promptlog.toml"
    config.write_text('[deno]\njit = "always"\n[pool]\ncgroup = "never"\n')
    command = [sys.executable, "-m", "promptlogd", "--config", str(config), "--socket", str(tmp_path / "s")]
    done = subprocess.run(
        [*command, "--state-dir", str(tmp_path / "state")], capture_output=True, text=True, timeout=20, check=False
    )
    assert done.returncode == 1
    assert "deno.jit is always" in done.stderr
    assert "Delegate=yes" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_auto_disables_the_jit_without_a_cgroup() -> None:
    """With `auto` and no cgroup, RLIMIT_DATA bounds memory, WebAssembly is missing, and `stats` reports this."""
    with configured_daemon('[pool]\ncgroup = "never"\n') as socket, Client(socket) as client:
        assert client.run_source("return typeof WebAssembly", engine="deno").value == "undefined"
        result = client.run_source(
            "const a = []; for (;;) a.push(new Array(1e5).fill(1))", engine="deno", limits=LimitsAsked(cpu_ms=9000)
        )
        assert isinstance(result.outcome, MemoryLimit)
        assert 64 << 20 < result.usage.peak_memory_bytes <= 148 << 20  # never less than the daemon: see `Supervisor`
        assert "RLIMIT_DATA" in client.stats().held_by["memory (deno)"]


def test_runs_with_another_memory_limit(client: Client) -> None:
    """A run may ask for more or less memory than the default; a cell that is started for it enforces that limit."""
    hog = "const a = []; for (let i = 0; i < 150; i++) a.push(new Uint8Array(1 << 20).fill(1)); return a.length"
    roomy = LimitsAsked(memory_bytes=400 << 20, cpu_ms=2000)
    assert client.run_source(hog, engine="deno", limits=roomy).value == 150
    assert isinstance(
        client.run_source(hog, engine="deno", limits=LimitsAsked(memory_bytes=100 << 20, cpu_ms=2000)).outcome,
        MemoryLimit,
    )


def test_quickjs_runs_do_not_wait_for_deno_runs(tmp_path: Path) -> None:
    """While 30 runs of one client on Deno are in progress, runs of another client on QuickJS are served."""
    config = "[pool]\ncells = 2\nspare = 2\n"
    with a_daemon(tmp_path, config=config) as daemon, Client(daemon.socket) as client:
        pending = [client.start(None, source=WHICH, engine="deno") for _ in range(30)]
        with Client(daemon.socket) as other:
            until(lambda: other.stats().queued > 20)
            for _ in range(10):
                assert other.run_source("return 1").value == 1
            assert other.stats().queued > 12, "runs on Deno went before the ten short ones"
        assert [run.result().value for run in pending] == ["deno"] * 30


def test_large_inputs_and_results(client: Client) -> None:
    """A prompt and a result of 1 MiB arrive unchanged; anything over the limit is reported."""
    prompt = "ü€😀" * 100_000
    result = client.run_source("return prompt", prompt, engine="deno", limits=LimitsAsked(cpu_ms=1000))
    assert result.value == prompt
    over = client.run_source("return 'x'.repeat(2 ** 20)", engine="deno", limits=LimitsAsked(cpu_ms=1000))
    assert over.outcome.__struct_config__.tag == "output_limit"


def test_a_long_source_has_the_time_limit_of_a_check() -> None:
    """A source that takes too long to parse is refused as at submit; it runs when a check has enough time."""
    # One expression of 900 KB, which takes each engine at least 50 ms.
    source = "const list = [" + "[1, {a: 'b'}], " * 60_000 + "]; return list.length"
    limits = LimitsAsked(cpu_ms=5000, wall_ms=9000, memory_bytes=512 << 20)
    engines: tuple[Engine, ...] = ("quickjs", "deno")
    with configured_daemon("[limits]\ncheck_cpu_ms = 5000\n") as path, Client(path) as client:
        for engine in engines:
            assert client.run_source(source, engine=engine, limits=limits).value == 60_000
            client.remove(client.submit(source, engine=engine).hash)
    with configured_daemon("[limits]\ncheck_cpu_ms = 10\n") as path, Client(path) as client:
        for engine in engines:
            with pytest.raises(RequestRefused, match="checking the program took more than 10 ms") as refused:
                client.run_source(source, engine=engine, limits=limits)
            assert refused.value.code == "too_large"
            with pytest.raises(RequestRefused, match="checking the program took more than 10 ms"):
                client.submit(source, engine=engine)
