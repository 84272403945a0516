"""Run a program in a jailed process of its own. Knows nothing of sockets, messages or the store."""
