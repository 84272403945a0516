"""The client library (`promptlogctl.client`) and the command line of promptlog."""
