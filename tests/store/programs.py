"""Programs that tests keep, as a handler would: staged, and then kept with what an engine made of them."""

from __future__ import annotations

from promptlogd.store import Store, Submission
from sandbox.program import Artifact, Form, Language, Program

BUILD = "1"
"""The build of the engine that made ARTIFACT."""

ARTIFACT = Artifact(form=Form.BODY, language="javascript")


def text(source: bytes, *, engine: str = "quickjs", language: Language = "javascript") -> Program:
    """Return the program that a text is."""
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
    """Keep a text for QuickJS; return (hash, whether it is new)."""
    staged = store.stage(text(source), uid=uid)
    return store.keep(Submission(staged=staged, artifact=artifact, build=build, name=name))[:2]
