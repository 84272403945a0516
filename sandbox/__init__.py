"""Runs programs in jailed processes. Independent of client sockets, messages and the store."""
