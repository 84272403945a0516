"""What can go wrong with the store. Every error of this package is a StoreError."""

from __future__ import annotations


class StoreError(Exception):
    """Root of this package's errors."""


class StoreLocked(StoreError):
    """Another daemon has this state folder."""

    def __init__(self, folder: str, holder: str) -> None:
        super().__init__(f"{folder} is in use by another promptlogd (pid {holder}); stop that, or give --state-dir")
        self.folder = folder
        self.holder = holder


class StoreUnsafe(StoreError):
    """A folder is not ours alone."""


class StoreFailed(StoreError):
    """The disk refused: full, read-only, or broken. Nothing was kept by halves."""


class BadReference(StoreError):
    """A text that can name no program."""


class NotFound(StoreError):
    """No program has this name or hash."""

    def __init__(self, reference: str, message: str | None = None) -> None:
        super().__init__(message or f"no program {reference!r} here; `promptlogctl list` shows what there is")
        self.reference = reference


class Ambiguous(StoreError):
    """A prefix that more than one hash begins with. `matches`: at most ten of them."""

    def __init__(self, reference: str, matches: list[str]) -> None:
        super().__init__(f"{reference!r} names {len(matches)} programs or more; give more digits")
        self.reference = reference
        self.matches = matches


class Damaged(StoreError):
    """An object did not verify; it was set aside and is not served."""

    def __init__(self, hash: str, why: str) -> None:
        super().__init__(f"program {hash} was damaged on disk ({why}) and is set aside; submit it again")
        self.hash = hash
        self.why = why


class KeptForAnother(StoreError):
    """The very same bytes are kept for another engine, or as another language."""

    def __init__(self, hash: str, engine: str, language: str) -> None:
        super().__init__(
            f"this very program is kept as {language} for {engine} already: remove it first, or run its text "
            "without keeping it"
        )
        self.hash = hash
        self.engine = engine
        self.language = language
