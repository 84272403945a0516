"""The file of an artifact: its name, its format, and the seal that proves that this store wrote it. Pure.

    artifact.ENGINE.BUILD       a header of JSON, a space, the seal in hex, a line feed, the code

The seal is an HMAC-SHA256 of the program's hash, the engine, the build, the header and the SHA-256 of the code, with
the key of the state folder. So an artifact of another program, engine or build does not verify.
"""

from __future__ import annotations

import hashlib
import hmac
import re

import msgspec

from promptlogd.store.errors import Unstorable
from sandbox.program import Artifact, Engine, Form, Language

MOST_BYTES = 128 << 20
"""Maximum size of the file."""
_MOST_CODE_BYTES = MOST_BYTES - (4 << 10)
_ENGINE = re.compile(r"[a-z0-9_-]{1,32}")
_BUILD = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """The program of an artifact, and the engine and build that it is for."""

    hash: str
    engine: Engine
    build: str

    @property
    def file_name(self) -> str:
        """Name of the file in the program's folder."""
        return f"{engine_prefix(self.engine)}{self.build}"


class _Header(msgspec.Struct, frozen=True, kw_only=True):
    """`language`: of the code. `program_language`: of the program, in case its `meta.json` is lost."""

    form: Form
    language: Language
    program_language: Language
    has_code: bool


def check_engine(engine: Engine) -> None:
    """Raise Unstorable if the name of an engine is not valid in a file name."""
    if not _ENGINE.fullmatch(engine):
        raise Unstorable(f"{engine!r} is not a valid engine name: it must match {_ENGINE.pattern}")


def check_place(place: Place) -> None:
    """Raise Unstorable if the engine's name or the build is not valid in a file name."""
    check_engine(place.engine)
    if not _BUILD.fullmatch(place.build):
        raise Unstorable(f"{place.build!r} is not a valid build: it must match {_BUILD.pattern}")


def engine_prefix(engine: Engine) -> str:
    """Return the common prefix of the file names of one engine's artifacts. Engine names have no dots."""
    return f"artifact.{engine}."


def place_of(hash: str, file_name: str) -> Place | None:
    """Return the place that a file name means; None if it is not an artifact's name."""
    prefix, _, rest = file_name.partition(".")
    engine, _, build = rest.partition(".")
    if prefix != "artifact" or not _ENGINE.fullmatch(engine) or not _BUILD.fullmatch(build):
        return None
    return Place(hash=hash, engine=engine, build=build)


def seal_artifact(key: bytes, place: Place, artifact: Artifact, program_language: Language) -> bytes:
    """Return the content of the file. Raises Unstorable if it is too large."""
    code = artifact.code or b""
    if len(code) > _MOST_CODE_BYTES:
        raise Unstorable(f"the artifact has {len(code)} bytes, the maximum is {_MOST_CODE_BYTES}")
    header = msgspec.json.encode(
        _Header(
            form=artifact.form,
            language=artifact.language,
            program_language=program_language,
            has_code=artifact.code is not None,
        )
    )
    return b"%b %b\n%b" % (header, _seal(key, place, header, code), code)


def unseal_artifact(key: bytes, place: Place, data: bytes) -> tuple[Artifact, Language]:
    """Return (the artifact, the language of its program). Raises ValueError if it does not verify."""
    line, _, code = data.partition(b"\n")
    header, _, seal = line.rpartition(b" ")
    if not hmac.compare_digest(seal, _seal(key, place, header, code)):
        raise ValueError("its seal does not match")
    known = msgspec.json.decode(header, type=_Header)
    artifact = Artifact(form=known.form, language=known.language, code=code if known.has_code else None)
    return artifact, known.program_language


def _seal(key: bytes, place: Place, header: bytes, code: bytes) -> bytes:
    # Only the last part can contain a line feed. For large data, hashlib releases the interpreter's lock; hmac does
    # not.
    what = f"promptlog artifact\n{place.hash}\n{place.engine}\n{place.build}\n".encode()
    return hmac.digest(key, b"".join((what, header, b"\n", hashlib.sha256(code).digest())), "sha256").hex().encode()
