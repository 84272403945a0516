"""Code for the daemon's side that all engines share. Nothing here runs in a jail."""
