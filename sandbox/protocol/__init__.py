"""The protocol of one run between the daemon and a jailed process, sans-IO: bytes and events in, messages out."""
