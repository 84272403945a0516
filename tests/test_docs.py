"""The documents name what is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_test_that_security_md_names_exists() -> None:
    """Each test and each test file that docs/security.md names is there."""
    text = (ROOT / "docs/security.md").read_text("utf-8")
    tests = "".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    names = set(re.findall(r"\btest_\w+\b(?!\.py)", text))
    assert len(names) >= 15
    for name in names:
        assert f"def {name}(" in tests, name
    paths = set(re.findall(r"`(tests/[\w/.]+)", text))
    assert len(paths) >= 10
    for path in paths:
        assert (ROOT / path).exists(), path


def test_links_between_documents_lead_somewhere() -> None:
    """Each relative link in the Markdown files leads to a file."""
    links = [
        (document, target)
        for document in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"))
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text("utf-8"))
        if "://" not in target
    ]
    assert len(links) >= 5
    for document, target in links:
        assert (document.parent / target).exists(), f"{document.name}: {target}"
