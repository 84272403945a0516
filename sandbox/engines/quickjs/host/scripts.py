"""Names of the scripts that give a program the web platform. Not in the jail: the root has them joined, as one file."""

from __future__ import annotations

PLATFORM = ("webidl", "headers", "search_params", "url", "web", "encoding", "locale", "normalize")
"""In the order of evaluation: each uses what is before it."""
