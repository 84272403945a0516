"""The metrics of a running daemon: exact counts after known runs, and a closed set of labels."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import get_args

import pytest

from promptlogctl.client import Client, EngineStats, ErrorCode, Histogram, LimitsAsked, Outcome, RequestRefused
from promptlogctl.metrics.exposition import QUOTAS, exposition
from promptlogd.config import Quota
from promptlogd.wire import messages
from promptlogd.wire.vectors import REPLIES
from tests.ctl.command import ctl
from tests.daemon.processes import ask, talk, until
from tests.daemons import configured_daemon
from tests.metrics.servers import Samples, samples, value

_LABELS = {
    "engine": {"quickjs", "deno", "unknown"},
    "outcome": {str(outcome.__struct_config__.tag) for outcome in get_args(Outcome)},
    "state": {"blank", "busy", "not_ready"},
    "code": set(get_args(ErrorCode)),
    "quota": set(QUOTAS),
}


def _printed(socket: Path) -> tuple[str, Samples]:
    done = ctl(socket, "metrics")
    assert done.returncode == 0, done.stderr
    text = done.stdout.decode()
    return text, samples(text)


def _settled(journal: messages.JournalCounts | None) -> tuple[int, int, int] | None:
    """Return the numbers of stored, waiting and lost entries."""
    return None if journal is None else (journal.rows, journal.waiting, journal.lost)


def test_counts_after_known_runs() -> None:
    """After known requests, the counts by engine and outcome, durations, programs, errors and journal are exact."""
    with configured_daemon("") as socket, Client(socket) as client:
        source = "return prompt"
        client.run(client.submit(source).hash)
        client.run_source("return 1")
        client.run_source("throw 1")
        client.run_source("for(;;){}", limits=LimitsAsked(cpu_ms=20))
        client.run_source("return 1", engine="deno")
        with pytest.raises(RequestRefused):
            client.run("@none")
        until(lambda: _settled(client.stats().journal) == (7, 0, 0))
        _, found = _printed(socket)
    assert value(found, "up") == 1
    assert value(found, "runs_total", engine="quickjs", outcome="ok") == 2
    assert value(found, "runs_total", engine="quickjs", outcome="exception") == 1
    assert value(found, "runs_total", engine="quickjs", outcome="cpu_limit") == 1
    assert value(found, "runs_total", engine="deno", outcome="ok") == 1
    assert sum(count for (name, _), count in found.items() if name == "promptlog_runs_total") == 5
    for name in ("run_cpu_seconds", "run_wall_seconds"):
        assert value(found, f"{name}_count", engine="quickjs") == 4
        assert value(found, f"{name}_bucket", engine="quickjs", le="+Inf") == 4
        assert value(found, f"{name}_count", engine="deno") == 1
    assert value(found, "run_cpu_seconds_bucket", engine="quickjs", le="0.01") == 3, "all but the endless loop"
    assert 0.02 <= value(found, "run_cpu_seconds_sum", engine="quickjs") < 0.2
    assert value(found, "errors_total", code="not_found") == 1
    assert (value(found, "programs"), value(found, "program_bytes")) == (1, len(source))
    assert (value(found, "journal_entries"), value(found, "journal_lost_total")) == (7, 0)
    assert value(found, "cells_started_total", engine="quickjs") >= 1
    assert value(found, "turn_seconds_count") > 10
    assert (value(found, "queued"), value(found, "running"), value(found, "clients")) == (0, 0, 2)
    assert value(found, "running_limit") >= 1


def test_quotas_and_the_store() -> None:
    """Refusals are counted by the quota that was used up, and the store's size is beside its maximum."""
    config = "[store]\nmax_mb = 3\n[quotas.user]\nprograms = 1\nnames = 0\n[quotas.tenant]\nruns_per_s = 0.001\n"
    with configured_daemon(config) as socket, Client(socket) as client:
        hash = client.submit("return 1").hash
        with pytest.raises(RequestRefused):
            client.label("one", hash)
        for _ in range(2):
            with pytest.raises(RequestRefused):
                client.submit("return 2")
        client.run_source("return 1", tenant="one")
        with pytest.raises(RequestRefused):
            client.run_source("return 1", tenant="one")
        _, found = _printed(socket)
        shown = ctl(socket, "stats").stdout.decode()
    assert value(found, "quota_refusals_total", quota="programs") == 2
    assert value(found, "quota_refusals_total", quota="runs_per_s") == 1
    assert value(found, "quota_refusals_total", quota="names") == 1
    assert value(found, "quota_refusals_total", quota="queued") == 0
    assert value(found, "errors_total", code="quota") == 4
    assert value(found, "store_limit_bytes") == 3 << 20
    assert 8192 <= value(found, "store_bytes") <= 65536
    assert "errors quota programs\t2\n" in shown
    assert f"bytes of {3 << 20}\n" in shown


def test_label_values_are_a_closed_set() -> None:
    """Hostile names, tenants, engines and texts appear in no metric, and every label value is a known one."""
    evil = "evil"
    hostile = f"""
        console.log("{evil}", prompt); const error = new Error('{evil}"}} 1\\n{evil}_total 5');
        error.name = '{evil}'; throw error"""
    with configured_daemon(f"[server]\nfronts = [{os.geteuid()}]\n") as socket, Client(socket) as client:
        hash = client.submit(hostile, name=evil).hash
        client.run(f"@{evil}", evil, tenant=f'{evil}"}}\n', env={evil: evil})
        with talk(socket) as sock:
            ask(sock, {"type": "run", "id": evil, "source": "return 1", "engine": evil, "tenant": evil})
            ask(sock, {"type": "run", "id": evil, "source": f"syntax error {evil}", "prompt": evil})
            ask(sock, {"type": evil, "id": evil, evil: evil})
        text, found = _printed(socket)
    assert sum(count for (name, _), count in found.items() if name == "promptlog_runs_total") == 2
    limits_and_bursts = {name for name in Quota.__struct_fields__ if name.startswith("max_") or "burst" in name}
    assert {*QUOTAS, *limits_and_bursts} == set(Quota.__struct_fields__)
    assert evil not in text
    assert hash[:8] not in text
    seen: dict[str, set[str]] = {}
    for _, labels in found:
        for name, label in labels:
            seen.setdefault(name, set()).add(label)
    bounds = seen.pop("le")
    assert all(re.fullmatch(r"\+Inf|[0-9.e-]+", bound) for bound in bounds)
    assert seen == _LABELS


def test_unknown_values_become_other() -> None:
    """Outcomes, engines and codes of a newer daemon are all counted under the label `other`."""
    stats = next(reply for _, reply in REPLIES if isinstance(reply, messages.StatsReply))
    none = Histogram(bounds_ms=[1.0], counts=[0, 0], sum_ms=0.0)
    engines = [
        EngineStats(engine=f"new {i}", runs={f"end {j}": 1 for j in range(9)}, cpu=none, wall=none) for i in (1, 2)
    ]
    text = exposition(
        messages.StatsReply(
            **{name: getattr(stats, name) for name in stats.__struct_fields__ if name not in ("errors", "engines")},
            errors={"new": 1, "newer": 2, "busy": 3},
            engines=[*stats.engines, *engines],
        )
    ).decode()
    found = samples(text)
    assert "new" not in text
    assert value(found, "errors_total", code="other") == 3
    assert value(found, "errors_total", code="busy") == 3
    assert value(found, "runs_total", engine="other", outcome="other") == 18
    assert value(found, "runs_total", engine="quickjs", outcome="ok") == 3


def test_a_reply_of_an_older_daemon() -> None:
    """A reply without the newer fields gives the metrics for which it has counts."""
    old = messages.StatsReply(
        id=1, uptime_s=1.0, clients=1, running=0, queued=0, runs={}, errors={}, programs=3, pools=[], held_by={}
    )
    found = samples(exposition(old).decode())
    assert value(found, "programs") == 3


def test_errors_of_the_command(tmp_path: Path) -> None:
    """Without a daemon the exit code is 4; --json and addresses that other hosts can reach are usage errors."""
    for options, code, says in (
        ((), 4, b"no promptlogd answers"),
        (("--json",), 2, b"stats --json"),
        (("--listen", "0.0.0.0:0"), 2, b"reachable from other hosts"),
        (("--listen", "[::]:0"), 2, b"reachable from other hosts"),
        (("--listen", "nowhere"), 2, b"neither HOST:PORT"),
        (("--listen", "unix:"), 2, b"the path is empty"),
        (("--listen", f"unix:{tmp_path}/none/s"), 2, b"can't listen on"),
    ):
        done = ctl(tmp_path / "none", "metrics", *options)
        assert (done.returncode, says in done.stderr + done.stdout) == (code, True), done


def test_a_stats_reply_lists_all_new_fields(socket_path: Path) -> None:
    """`stats --json` contains the fields from which the metrics are made."""
    said = json.loads(ctl(socket_path, "stats", "--json").stdout)
    assert {"engines", "turns", "journal", "program_bytes", "max_running", "max_queued", "max_clients"} <= set(said)
