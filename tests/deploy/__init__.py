"""promptlog installed under a real systemd: `make test-deploy`. Root alone can run it.

`root` builds a Debian root, `machine` boots it with systemd-nspawn, `wheels` gets promptlog into it, and `inside` is
what is checked there. `__main__` puts them together.
"""
