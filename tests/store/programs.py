"""Functions that store programs as a request handler does: stage the text, then keep it with its artifact."""

from __future__ import annotations

from promptlogd.store import Store, Submission
from sandbox.program import Artifact, Form, Language, Program

BUILD = "1"
"""The engine build that made ARTIFACT."""

ARTIFACT = Artifact(form=Form.BODY, language="javascript")


def text(source: bytes, *, engine: str = "quickjs", language: Language = "javascript") -> Program:
    """Return this text as a program."""
    return Program.of_text(source, language=language, engine=engine)


def submit(
    store: Store,
    source: bytes,
    *,
    name: str | None = None,
    uid: int = 7,
    artifact: Artifact = ARTIFACT,
    build: str = BUILD,
) -> tuple[str, bool]:
    """Store a text for QuickJS. Return its hash, and whether it is new."""
    staged = store.stage(text(source), uid=uid)
    return store.keep(Submission(staged=staged, artifact=artifact, build=build, name=name))[:2]
