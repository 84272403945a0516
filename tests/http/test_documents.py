"""The HTTP examples of the documents work as shown."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from promptlogctl.cli.serve import REQUIREMENTS
from promptlogctl.http.openapi import document

ROOT = Path(__file__).parents[2]
HTTP = (ROOT / "docs/http.md").read_text("utf-8")


@pytest.mark.parametrize("name", ["README.md", "docs/http.md"])
def test_curl_transcripts(url: str, name: str) -> None:
    """Each curl command in a transcript prints the output that the document shows."""
    text = (ROOT / name).read_text("utf-8")
    transcripts = re.findall(r"^\$ (curl .*)\n((?:(?!\$ |```).*\n)+)", text, re.MULTILINE)
    assert len(transcripts) >= 2
    for line, printed in transcripts:
        here = line.replace("http://127.0.0.1:8787/", url)
        done = subprocess.run(["bash", "-c", here], capture_output=True, text=True, timeout=30)
        assert done.stdout + "\n" == printed, line


def test_http_md_has_every_path_and_status() -> None:
    """docs/http.md names each path, and each status that the API can return."""
    operations = document()["paths"]
    for path in operations:
        assert path.replace("{program}", "PROGRAM") in HTTP, path
    answers = [answer for path in operations.values() for operation in path.values() if isinstance(operation, dict)
               for answer in operation["responses"]]  # fmt: skip
    for status in set(answers) - {"200", "304"}:
        assert re.search(rf"^\| .*\b{status}\b", HTTP, re.MULTILINE), status


def test_the_message_about_missing_packages_is_current() -> None:
    """The packages that `promptlogctl http` asks for are those of the extra `http` in pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert list(REQUIREMENTS) == project["optional-dependencies"]["http"]
