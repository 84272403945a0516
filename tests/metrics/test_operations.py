"""The Grafana dashboard and the alert rules are valid, and use only metrics and labels that exist."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from promptlogctl.metrics.exposition import exposition
from promptlogd.wire import messages
from promptlogd.wire.vectors import REPLIES
from tests.metrics.servers import samples

_FOLDER = Path(__file__).parents[2] / "docs/operations"
_DOCUMENT = Path(__file__).parents[2] / "docs/metrics.md"
_NAME = re.compile(r"\bpromptlog_\w+")
_SELECTOR = re.compile(r"\b(promptlog_\w+)\{([^}]*)\}")
_CONDITION = re.compile(r'(\w+)=~?"([^"]*)"')


@pytest.fixture
def series() -> set[tuple[str, frozenset[tuple[str, str]]]]:
    """All time series of a daemon that has executed programs."""
    stats = next(reply for _, reply in REPLIES if isinstance(reply, messages.StatsReply))
    return set(samples(exposition(stats).decode()))


def _dashboard() -> dict[str, Any]:
    return dict(json.loads((_FOLDER / "grafana.json").read_text("utf-8")))


def _rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((_FOLDER / "alerts.yaml").read_text("utf-8"))["groups"]
    assert group["name"] == "promptlog"
    return list(group["rules"])


def _expressions() -> Iterator[str]:
    for panel in _dashboard()["panels"]:
        for target in panel["targets"]:
            yield target["expr"]
    for rule in _rules():
        yield rule["expr"]


def test_every_metric_and_label_of_a_query_exists(series: set[tuple[str, frozenset[tuple[str, str]]]]) -> None:
    """Each metric in a query exists with the labels that the query uses, and all brackets are closed."""
    names = {name for name, _ in series}
    expressions = list(_expressions())
    assert len(expressions) >= 30
    for expression in expressions:
        used = _NAME.findall(expression)
        assert used, expression
        assert set(used) <= names, expression
        for opening, closing in ("()", "[]", "{}"):
            assert expression.count(opening) == expression.count(closing), expression
        for name, conditions in _SELECTOR.findall(expression):
            wanted = {pair for pair in _CONDITION.findall(conditions) if pair[0] != "instance"}
            assert any(one == name and wanted <= labels for one, labels in series), expression
        labels = {label for name, labels in series for label, _ in labels if name in used} | {"instance"}
        for grouped in re.findall(r"by \(([^)]*)\)", expression):
            assert set(grouped.split(", ")) <= labels, expression


def test_the_dashboard_is_valid() -> None:
    """Panels have unique ids and titles, do not overlap, and use the data source that the user selects."""
    dashboard = _dashboard()
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for panel in panels
        for at in [panel["gridPos"]]
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
    assert {panel["datasource"]["uid"] for panel in panels} == {"${datasource}"}
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(panels)))
    assert used == variables | {"__rate_interval"}


def test_the_rules_are_valid() -> None:
    """Each rule has the fields that Prometheus needs, a severity, and a text that says what to do."""
    rules = _rules()
    assert len({rule["alert"] for rule in rules}) == len(rules) >= 10
    for rule in rules:
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert re.fullmatch(r"\d+m", rule.get("for", "1m"))
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert set(rule["annotations"]) == {"summary", "description"}
        for text in rule["annotations"].values():
            assert set(re.findall(r"\{\{ (.*?) \}\}", text)) <= {"$value", "$labels.instance", "$labels.engine"}


def test_the_document_lists_every_metric(series: set[tuple[str, frozenset[tuple[str, str]]]]) -> None:
    """docs/metrics.md lists exactly the metrics that are served."""
    families = {re.sub(r"_seconds_(bucket|count|sum)$", "_seconds", name) for name, _ in series}
    text = _DOCUMENT.read_text("utf-8")
    assert set(re.findall(r"^\| `(promptlog_\w+)`", text, re.MULTILINE)) == families
