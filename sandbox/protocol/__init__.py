"""One run between the daemon and a jailed process, without input and output: bytes and events in, messages out."""
