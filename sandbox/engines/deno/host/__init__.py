"""The daemon's side of this engine. Nothing here runs in a jail."""
