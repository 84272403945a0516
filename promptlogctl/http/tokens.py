"""Tokens of the HTTP API: names and rights. The token file is read once, at the start."""

from __future__ import annotations

import hashlib
import hmac
import os
import stat
from collections.abc import Sequence
from pathlib import Path

import msgspec

RIGHTS = ("run", "exec", "submit", "manage")
"""run: run stored programs. exec: run any text. submit: store and list programs. manage: remove them, move names."""

_MOST_BYTES = 1024 * 1024
_LEAST_CHARACTERS = 16
_NAME_CHARACTERS = 64


class TokenError(ValueError):
    """The token file is unusable."""


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """A token with its name and rights."""

    name: str
    rights: frozenset[str]
    digest: bytes
    """SHA-256 of the token, so that comparisons do not reveal its length."""


class Tokens:
    """All tokens of a file."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self._tokens = tuple(tokens)

    def find(self, presented: bytes) -> Token | None:
        """Return the token with this text, or None. The time does not depend on the number of matching characters."""
        digest = hashlib.sha256(presented).digest()
        found = None
        for token in self._tokens:
            if hmac.compare_digest(token.digest, digest):
                found = token
        return found


def read_tokens(path: Path) -> Tokens:
    """Read a token file. Each line is `NAME RIGHTS TOKEN`, with rights like `run,submit`. # starts a comment.

    Raises TokenError if it is unreadable, is accessible to other users, or has an invalid line.
    """
    try:
        # O_NONBLOCK, because a named pipe without a writer would block. It is refused below.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise TokenError(f"{path} is not a file")
            if status.st_mode & 0o077:
                mode = stat.S_IMODE(status.st_mode)
                raise TokenError(f"{path} has mode {mode:04o}, so other users can access it; run: chmod 600 {path}")
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise TokenError(f"can't read {path}: {error.strerror}") from error
    if len(content) > _MOST_BYTES:
        raise TokenError(f"{path} has more than {_MOST_BYTES} bytes")
    try:
        lines = content.decode().splitlines()
    except UnicodeDecodeError as error:
        raise TokenError(f"{path} is not UTF-8: byte {error.start}") from None
    tokens: dict[str, Token] = {}
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        token = _token(words, f"{path}, line {number}")
        if token.name in tokens:
            raise TokenError(f"{path}, line {number}: another token already has the name {token.name}")
        if any(token.digest == other.digest for other in tokens.values()):
            raise TokenError(f"{path}, line {number}: another name has the same token")
        tokens[token.name] = token
    if not tokens:
        raise TokenError(f"{path} has no token; add a line like: NAME run,exec,submit,manage TOKEN")
    return Tokens(list(tokens.values()))


def _token(words: Sequence[str], where: str) -> Token:
    if len(words) != 3:
        raise TokenError(f"{where}: it has {len(words)} words; the format of a line is: NAME RIGHTS TOKEN")
    name, rights, secret = words
    given = rights.split(",")
    if unknown := [right for right in given if right not in RIGHTS]:
        raise TokenError(f"{where}: the right {unknown[0]!r} is unknown; the rights are: {', '.join(RIGHTS)}")
    if len(name) > _NAME_CHARACTERS or not name.isprintable():
        raise TokenError(f"{where}: the name has more than {_NAME_CHARACTERS} characters, or non-printable characters")
    if len(secret) < _LEAST_CHARACTERS:
        raise TokenError(f"{where}: the token has fewer than {_LEAST_CHARACTERS} characters; run: openssl rand -hex 32")
    return Token(name=name, rights=frozenset(given), digest=hashlib.sha256(secret.encode()).digest())
