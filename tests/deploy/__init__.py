"""Tests of promptlog installed under a real systemd: `make test-deploy`. They need root.

`root` builds a Debian root, `machine` boots it with systemd-nspawn, `wheels` provides promptlog's wheels, `inside` has
the tests that run in the machine, and `__main__` runs them all. `make test-deploy-vm` runs `emulate`: `emulator` boots
the root with QEMU, and `emulated` has the tests that run there.
"""
