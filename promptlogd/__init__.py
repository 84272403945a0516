"""The promptlog daemon."""
