"""What the daemon's side of every engine shares. Nothing here runs in a jail."""
