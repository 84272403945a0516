"""One handler for each request type: `start(principal, request, sink)` returns at once, and replies to the sink."""
