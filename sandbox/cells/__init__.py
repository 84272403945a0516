"""Cells: a jailed engine process each, one file for each engine. What starts processes is here, and only here."""

from sandbox.cells.job import Job, Trial

__all__ = ["Job", "Trial"]
