"""Translates the store's errors into errors of the protocol. No messages here."""

from __future__ import annotations

from promptlogd.refusal import Detail, RequestError
from promptlogd.store import (
    Ambiguous,
    BackupStopped,
    BadReference,
    Damaged,
    KeptForAnother,
    NameTaken,
    NotFound,
    NotYours,
    OverQuota,
    StoreFailed,
    StoreOverQuota,
    TooManyHolders,
    TooManyNames,
    Unstorable,
    UnusableFolder,
)

_REMOVAL_MS = 60_000
"""`retry_after_ms` of a quota that only a removal can restore."""


class StoreErrors:
    """Turns the store's errors into a RequestError. A class, because `contextmanager` is slower."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        match error:
            case None:
                return
            case NotFound():
                raise RequestError("not_found", str(error), {"reference": error.reference}) from None
            case Ambiguous():
                raise RequestError("ambiguous", str(error), {"matches": error.matches}) from None
            case BadReference():
                raise RequestError("bad_request", str(error)) from None
            case Damaged():
                raise RequestError("not_found", str(error), {"reference": error.hash, "damaged": error.why}) from None
            case KeptForAnother():
                detail: Detail = {
                    "hash": error.hash,
                    "engine": error.engine,
                    "language": error.language,
                }
                raise RequestError("bad_request", str(error), detail) from None
            case NameTaken():
                raise RequestError("bad_request", str(error), {"on": error.on}) from None
            case NotYours():
                raise RequestError("forbidden", str(error), {"right": "manage"}) from None
            case OverQuota():
                detail = {
                    "quota": error.setting,
                    "used": error.used,
                    "limit": error.most,
                    "retry_after_ms": _REMOVAL_MS,
                }
                raise RequestError("quota", str(error), detail) from None
            case TooManyHolders():
                raise RequestError("bad_request", str(error)) from None
            case TooManyNames():
                raise RequestError("bad_request", str(error), {"limit": error.most}) from None
            case StoreOverQuota():
                detail = {"used": error.used, "size": error.needed, "limit": error.most}
                raise RequestError("bad_request", str(error), detail) from None
            case UnusableFolder():
                raise RequestError("bad_request", str(error)) from None
            case BackupStopped():
                raise RequestError("shutting_down", str(error)) from None
            case Unstorable():
                raise RequestError("bad_request", str(error)) from None
            case StoreFailed():
                raise RequestError("internal", str(error)) from None


def utf8_bytes(text: str | bytes) -> int:
    """Return the size of a text in UTF-8. Bytes are UTF-8 already."""
    return len(text) if isinstance(text, bytes) or text.isascii() else len(text.encode())
