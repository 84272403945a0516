"""Names, links and versions in the documents exist."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import click

from promptlogctl.cli import cli
from sandbox.engines.deno import SPEC

ROOT = Path(__file__).parents[1]


def test_every_test_that_security_md_names_exists() -> None:
    """Each test and each test file that docs/security.md names exists."""
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


def test_make_help_names_every_target() -> None:
    """`make help` names each target, and CONTRIBUTING.md names only targets that exist."""
    done = subprocess.run(["make", "help"], capture_output=True, text=True, cwd=ROOT, timeout=60)
    rules = re.findall(r"^([a-z][a-z0-9 -]*):(?![=:])", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    targets = {target for rule in rules for target in rule.split()}
    assert len(targets) >= 30
    told = re.findall(r"^make ([a-z0-9-]+)|\b(lint-[a-z]+)", done.stdout, re.MULTILINE)
    assert targets == {first or second for first, second in told}
    named = set(re.findall(r"`make ([a-z0-9-]+)", (ROOT / "CONTRIBUTING.md").read_text("utf-8")))
    assert len(named) >= 15
    assert named <= targets


def test_every_option_is_documented() -> None:
    """The documents name each command of promptlogctl, and each option of promptlogctl and promptlogd."""
    text = "".join(path.read_text("utf-8") for path in ROOT.glob("docs/**/*.md"))
    commands = {name: cli.get_command(click.Context(cli), name) for name in cli.list_commands(click.Context(cli))}
    assert len(commands) >= 25
    help = subprocess.run([sys.executable, "-m", "promptlogd", "--help"], capture_output=True, text=True, timeout=60)
    options = set(re.findall(r"^  (?:-\w, )?(--[\w-]+)", help.stdout, re.MULTILINE))
    assert len(options) >= 9
    for name, command in (*commands.items(), ("promptlogctl", cli)):
        assert command is not None
        assert re.search(rf"\b{name}\b", text), name
        options |= {form for each in command.params if isinstance(each, click.Option) for form in each.opts}
    assert len(options) >= 45
    for option in options:
        assert re.search(rf"(?<![\w-]){option}(?![\w-])", text), option


def test_links_between_documents_are_valid() -> None:
    """Each relative link in the Markdown files leads to an existing file."""
    links = [
        (document, target)
        for document in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"))
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text("utf-8"))
        if "://" not in target
    ]
    assert len(links) >= 5
    for document, target in links:
        assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_the_command_that_installs_deno_works() -> None:
    """Documents and messages name the package and versions of pyproject.toml, and no package of another owner."""
    [deno] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]["deno"]
    files = [
        path
        for pattern in ("*.md", "docs/**/*.md", "sandbox/**/*.py", "promptlog*/**/*.py")
        for path in ROOT.glob(pattern)
    ]
    texts = {path: path.read_text("utf-8") for path in files}
    named = [(path, found) for path, text in texts.items() for found in re.findall(r"pip install '(deno[^']*)'", text)]
    assert SPEC.requirement == deno
    assert len(named) >= 4
    for path, found in named:
        assert found == deno, path
    for path, text in texts.items():
        assert not re.search(r"pip install \S*promptlog", text), f"{path}: the promptlog on PyPI is another"
