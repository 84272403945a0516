"""Names of the scripts that give a program the web platform. Not in the jail: the root has them joined, as one file."""

from __future__ import annotations

PLATFORM = ("webidl", "encoding", "headers", "search_params", "url", "web", "locale", "normalize")
"""In the order of evaluation: each uses what is before it."""
