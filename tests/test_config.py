"""The configuration: limits, and errors that name the remedy."""

from __future__ import annotations

import os
import re
from pathlib import Path

import msgspec
import pytest

from promptlogd.config import Config, ConfigError, LimitsError, front_uids
from promptlogd.config_files import load, load_files
from promptlogd.config_reference import config_reference
from promptlogd.settings import flat
from promptlogd.wire.messages import LimitsAsked
from promptlogd.wire.paths import default_paths
from sandbox.limits import MIB


def _load(tmp_path: Path, text: str | bytes) -> Config:
    path = tmp_path / "promptlog.toml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return load(path)


def test_an_empty_file_is_the_default(tmp_path: Path) -> None:
    """Every setting has a default."""
    assert _load(tmp_path, "") == Config()


def test_settings_are_read(tmp_path: Path) -> None:
    """Settings of sections and nested sections are read."""
    config = _load(tmp_path, "[limits.default]\ncpu_ms = 20\n[pool]\ncells = 3\nisolation = 'jail'\n")
    assert config.limits_for(None).cpu_ms == 20
    assert (config.cells, config.concurrent, config.pool.isolation) == (3, 3, "jail")


def test_the_number_of_cells_follows_the_usable_cores() -> None:
    """On a host with many cores, a daemon that is confined to one core has cells for one."""
    cores = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(cores)})
        assert Config().cells == 2
    finally:
        os.sched_setaffinity(0, cores)
    assert Config().cells == 2 * len(cores)


@pytest.mark.parametrize(
    ("uids", "says"),
    [
        ("700000", 'like "100000:65536"'),
        ("a:b", 'like "100000:65536"'),
        ("1000:65536", "ids must be from 65536 to 4294967293"),
        ("4294960000:10000", "ids must be from 65536 to 4294967293"),
        ("700000:10", "pool.uids has 10 ids, but this configuration can have "),
    ],
)
def test_an_unusable_range_of_uids_is_refused(tmp_path: Path, uids: str, says: str) -> None:
    """The range of uids for jails must be well-formed, large enough, and apart from ids of users and services."""
    assert _load(tmp_path, '[pool]\nuids = "700000:1000"').pool.id_range == (700_000, 1000)
    with pytest.raises(ConfigError, match=re.escape(says)):
        _load(tmp_path, f'[pool]\nuids = "{uids}"')


def test_one_maximum_keeps_the_other_defaults(tmp_path: Path) -> None:
    """A file that sets one maximum has the defaults for the others, as the reference says."""
    most = _load(tmp_path, "[limits.max]\ncpu_ms = 700\n").limits.max
    assert most == msgspec.structs.replace(Config().limits.max, cpu_ms=700)


_MOST = (1 << 20) - len(b"#\n")


@pytest.mark.parametrize(
    ("right", "wrong", "says"),
    [
        ("[server]\n", "[sever]\n", "did you mean server?"),
        ("[limits.default]\ncpu_ms = 1", "[limits.default]\ncpu = 1", "did you mean limits.default.cpu_ms?"),
        ("[pool]\nspare = 1", "[pool]\nzzzzzz = 1", "no setting pool.zzzzzz; known: cells"),
        ("[pool]\ncells = 1", "[pool]\ncells = 0", "pool.cells: Expected `int` >= 1"),
        ("[pool]\ncells = 1024", "[pool]\ncells = 1025", "pool.cells: Expected `int` <= 1024"),
        ("[pool]\ncells = 1", "[pool]\ncells = 'x'", "pool.cells: Expected `int"),
        (
            "[server]\nsocket_mode = '660'",
            "[server]\nsocket_mode = '999'",
            "server.socket_mode: expected an octal mode",
        ),
        ("[server]\nsocket_mode = '600'", "[server]\nsocket_mode = 600", "server.socket_mode: expected an octal mode"),
        ("[server]\nsocket_mode = '0660'", "[server]\nsocket_mode = '0666'", "other users cannot have it"),
        (
            "[server]\nsocket_mode = '0600'",
            "[server]\nsocket_mode = '0000'",
            "connecting needs read and write permission",
        ),
        (
            "[server]\nsocket_mode = '660'",
            "[server]\nsocket_mode = '640'",
            "connecting needs read and write permission",
        ),
        ("[server]\nsocket_group = 'users'", "[server]\nsocket_group = ''", "server.socket_group: Expected"),
        ("[server]\nsocket_group = '100'", "[server]\nsocket_group = 100", "server.socket_group: Expected"),
        ("[server]\nsocket = '/s'", "[server]\nsocket = 's'", "server.socket: expected an absolute path"),
        ("[server]\nstate_dir = '/s'", "[server]\nstate_dir = ''", "server.state_dir: expected an absolute path"),
        ("[server]\nsocket = '/s'", '[server]\nsocket = "/s\\u0000"', "server.socket: expected an absolute path"),
        ("[limits.default]\ncpu_ms = 10000", "[limits.default]\ncpu_ms = 10001", "above limits.max.cpu_ms of 10000"),
        ("[limits.default]\ncpu_ms = 1", "[limits.default]\ncpu_ms = 0", "limits.default.cpu_ms: Expected"),
        (
            "[engines]\ndefault = 'deno'",
            "[engines]\ndefault = 'v8'",
            "engines.default: there is no engine 'v8'",
        ),
        ("[engines]\ndefault = 'quickjs'", "[engines]\ndefault = ''", "the engines are: 'quickjs', 'deno'"),
        ("[pool]", "pool = 3", "pool: Expected `table`, got `int`"),
        (
            "[journal]\nkeep = ['prompt']",
            "[journal]\nkeep = ['prompts']",
            "journal.keep[0]: Invalid enum value 'prompts'; valid values: 'prompt', 'result', 'console', 'error'",
        ),
        ("[log]\nformat = 'json'", "[log]\nformat = 'xml'", "valid values: 'auto', 'human', 'json'"),
        ("[server]", "= nonsense", "not valid TOML"),
        ("[server]", "[server", "not valid TOML"),
        ("# ä".encode(), "# ä".encode("latin-1"), "not valid TOML"),
        (b"#" + b"x" * _MOST + b"\n", b"#" + b"x" * (_MOST + 1) + b"\n", "is larger than 1048576 bytes"),
        (
            "[engines]\ndefault = 'deno'\n[limits.max]\nmemory_mb = 64\n[limits.default]\nmemory_mb = 48",
            "[engines]\ndefault = 'deno'\n[limits.max]\nmemory_mb = 48\n[limits.default]\nmemory_mb = 48",
            "limits.max.memory_mb is 48, but deno, the default engine, needs 64",
        ),
    ],
    ids=lambda value: repr(value[:40]),
)
def test_an_error_names_the_setting(tmp_path: Path, right: str | bytes, wrong: str | bytes, says: str) -> None:
    """A file is accepted, and with one defect refused with the name of the setting and the remedy."""
    _load(tmp_path, right)
    with pytest.raises(ConfigError, match=re.escape(says)):
        _load(tmp_path, wrong)


@pytest.mark.parametrize("value", ["'x'", "3", "-1", "1.5", "nan", "true", "[]", "['x']", "[[1]]", "{}", "2026-11-30"])
def test_no_value_is_an_error_of_the_daemon(tmp_path: Path, value: str) -> None:
    """For each setting, a value of any type is accepted or refused with a ConfigError that names the setting."""
    for setting, _ in flat(Config()):
        section, _, name = setting.rpartition(".")
        try:
            _load(tmp_path, f"[{section}]\n{name} = {value}\n")
        except ConfigError as error:
            assert setting in str(error)  # noqa: PT017  # both is right


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """A missing file is a ConfigError with its path."""
    (tmp_path / "here").write_text("")
    assert load(tmp_path / "here") == Config()
    with pytest.raises(ConfigError, match=re.escape(str(tmp_path / "nowhere"))):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("right", "wrong", "says"),
    [
        ({"cpu_ms": 10_000}, {"cpu_ms": 10_001}, "limits.cpu_ms is 10001, the maximum is 10000"),
        ({"wall_ms": 30_000}, {"wall_ms": 30_001}, "limits.wall_ms is 30001"),
        ({"memory_bytes": 512 * MIB}, {"memory_bytes": 512 * MIB + 1}, "the maximum is 536870912 (512 MiB)"),
        ({"memory_bytes": 8 * MIB}, {"memory_bytes": 8 * MIB - 1}, "the minimum is 8388608 (8 MiB)"),
        ({"result_bytes": 4096 * 1024}, {"result_bytes": 4096 * 1024 + 1}, "limits.result_bytes is"),
        ({"log_bytes": 1024 * 1024}, {"log_bytes": 1024 * 1024 + 1}, "limits.log_bytes is"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_limits_are_bounded(right: dict[str, int], wrong: dict[str, int], says: str) -> None:
    """A run gets what it requests up to the maximum, and one step above it an error that names the maximum."""
    config = Config()
    limits = config.limits_for(LimitsAsked(**right))
    assert {field: getattr(limits, field) for field in right} == right
    with pytest.raises(LimitsError, match=re.escape(says)):
        config.limits_for(LimitsAsked(**wrong))


def test_default_paths() -> None:
    """The defaults are system paths for root, and paths of the XDG specification for others."""
    assert str(default_paths(0, {}).socket) == "/run/promptlog/promptlog.sock"
    user = default_paths(1000, {"HOME": "/h", "XDG_RUNTIME_DIR": "/r"})
    assert (str(user.socket), str(user.state_dir)) == ("/r/promptlog/promptlog.sock", "/h/.local/state/promptlog")
    assert str(default_paths(1000, {"HOME": "/h"}).socket) == "/h/.local/state/promptlog/promptlog.sock"


def test_the_reference_is_up_to_date() -> None:
    """docs/config.md matches the generator's output."""
    written = Path(__file__).parents[1] / "docs/config.md"
    assert written.read_text("utf-8") == config_reference(), "run: make docs"


def test_an_engine_gets_the_memory_that_it_needs(tmp_path: Path) -> None:
    """A default memory limit below an engine's minimum is raised for that engine, but not above the maximum."""
    small = _load(tmp_path, "[limits.default]\nmemory_mb = 32")
    assert small.limits_for(None).memory_bytes == 32 * MIB
    for asked in (None, LimitsAsked(), LimitsAsked(cpu_ms=10)):
        assert small.limits_for(asked, "deno").memory_bytes == 64 * MIB
    assert small.limits_for(LimitsAsked(memory_bytes=64 * MIB), "deno").memory_bytes == 64 * MIB
    with pytest.raises(LimitsError, match="minimum on deno"):
        small.limits_for(LimitsAsked(memory_bytes=64 * MIB - 1), "deno")
    none = _load(tmp_path, "[limits.default]\nmemory_mb = 32\n[limits.max]\nmemory_mb = 48")
    for nothing in (None, LimitsAsked()):
        with pytest.raises(LimitsError, match="minimum on deno"):
            none.limits_for(nothing, "deno")


def test_wall_time_follows_cpu_time() -> None:
    """A run that requests more CPU time than the default wall time gets twice that as wall time, up to the maximum."""
    config = Config()
    assert config.limits_for(LimitsAsked(cpu_ms=100)).wall_ms == 1000
    assert config.limits_for(LimitsAsked(cpu_ms=5000)).wall_ms == 10_000
    assert config.limits_for(LimitsAsked(cpu_ms=5000, wall_ms=100)).wall_ms == 100


@pytest.mark.parametrize(
    ("engines", "says"),
    [
        ('disabled = ["rhino"]', "engines.disabled: there is no engine 'rhino'; the engines are: 'quickjs', 'deno'"),
        ('disabled = ["quickjs"]', 'which is the default engine; also set engines.default = "deno"'),
        ('default = "deno"\ndisabled = ["deno"]', 'which is the default engine; also set engines.default = "quickjs"'),
        ('disabled = ["quickjs", "deno"]', "engines.disabled names all engines"),
    ],
)
def test_the_default_engine_can_not_be_disabled(tmp_path: Path, engines: str, says: str) -> None:
    """Any other engine can be disabled, and the error names the setting to change."""
    assert _load(tmp_path, '[engines]\ndefault = "deno"\ndisabled = ["quickjs"]').engines.disabled == ["quickjs"]
    with pytest.raises(ConfigError, match=re.escape(says)):
        _load(tmp_path, f"[engines]\n{engines}")


def _folder_of(path: Path, **files: str) -> None:
    folder = Path(f"{path}.d")
    folder.mkdir()
    for name, text in files.items():
        (folder / f"{name}.toml").write_text(text)


def test_drop_in_files_override_the_main_file(tmp_path: Path) -> None:
    """For each setting, the last file by name decides, and the source of each setting is known."""
    path = tmp_path / "promptlog.toml"
    path.write_text("[limits.default]\ncpu_ms = 20\nwall_ms = 200\nlog_kb = 2\n")
    _folder_of(
        path, b10="[limits.default]\ncpu_ms = 30\nwall_ms = 300", a20="[limits.default]\nwall_ms = 250", c="[pool]"
    )
    for ignored in (".hidden.toml", "note.txt", "x.toml~"):
        Path(f"{path}.d", ignored).write_text("= nonsense")
    loaded = load_files(path)
    default = loaded.config.limits.default
    assert (default.cpu_ms, default.wall_ms, default.log_kb) == (30, 300, 2)
    assert [Path(file).name for file in loaded.files] == ["promptlog.toml", "a20.toml", "b10.toml", "c.toml"]
    assert {name: Path(file).name for name, file in loaded.sources.items()} == {
        "limits.default.cpu_ms": "b10.toml",
        "limits.default.wall_ms": "b10.toml",
        "limits.default.log_kb": "promptlog.toml",
    }


def test_an_error_names_the_drop_in(tmp_path: Path) -> None:
    """An error names the file that has it, or the file and the folder if they are invalid only together."""
    path = tmp_path / "promptlog.toml"
    path.write_text("[limits.max]\ncpu_ms = 100\n")
    _folder_of(path, one="[limits.default]\ncpu_ms = 10")
    load(path)
    drop_in = Path(f"{path}.d/one.toml")
    for text, says in (
        ("[limits.default]\ncpu = 1", f"{drop_in}: there is no setting limits.default.cpu"),
        ("[limits.default]\ncpu_ms = 0", f"{drop_in}: limits.default.cpu_ms: Expected `int` >= 1"),
        ("limits = 3", f"{drop_in}: limits: Expected `table`"),
        ("= x", f"{drop_in} is not valid TOML"),
        ("[limits.default]\ncpu_ms = 101", f"{path} with {path}.d: limits.default.cpu_ms is 101, above limits.max"),
    ):
        drop_in.write_text(text)
        with pytest.raises(ConfigError, match=re.escape(says)):
            load(path)
    drop_in.unlink()
    drop_in.parent.rmdir()
    load(path)
    drop_in.parent.symlink_to(tmp_path / "gone")
    with pytest.raises(ConfigError, match=re.escape(f"{path}.d is a symbolic link to a folder that does not exist")):
        load(path)
    drop_in.parent.unlink()
    drop_in.mkdir(parents=True)
    with pytest.raises(ConfigError, match=re.escape(f"can't read the configuration {drop_in}: Is a directory")):
        load(path)


def test_the_number_of_drop_ins_is_limited(tmp_path: Path) -> None:
    """A hundred files are read, and one more is refused."""
    path = tmp_path / "promptlog.toml"
    path.write_text("")
    _folder_of(path, **{f"f{number}": "" for number in range(100)})
    assert len(load_files(path).files) == 101
    Path(f"{path}.d/more.toml").write_text("")
    with pytest.raises(ConfigError, match="has 101 files; the most is 100"):
        load(path)


def test_fronts_are_uids_or_user_names(tmp_path: Path) -> None:
    """Names are resolved when the file is read; unknown names and invalid values are refused."""
    assert front_uids(_load(tmp_path, "[server]\nfronts = [12, 'root']").server) == {0, 12}
    for wrong, says in (
        ("['no-such-user-here']", "server.fronts: there is no user 'no-such-user-here'; make it, or give a uid"),
        ("['']", "server.fronts[0]: expected uids, or names of users as strings"),
        ("[-1]", "server.fronts[0]: expected uids, or names of users as strings"),
        ("[1.5]", "server.fronts[0]: expected uids, or names of users as strings"),
        (r"['''a\u0000''']".replace("'''", '"'), "server.fronts: there is no user"),
        (str(list(range(1001))), "server.fronts: expected uids"),
    ):
        with pytest.raises(ConfigError, match=re.escape(says)):
            _load(tmp_path, f"[server]\nfronts = {wrong}")
