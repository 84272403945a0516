"""Tests of promptlog installed in machines: `make test-deploy`, `test-deploy-vm` and `test-arm64`. They need root.

| module | contents |
|---|---|
| `__main__` | `make test-deploy`: tests in a machine of systemd-nspawn |
| `emulate` | `make test-deploy-vm`: tests in a machine of QEMU, which has a kernel of its own with cgroup version 2 |
| `emulate_arm64` | `make test-arm64`: this checkout's tests on an arm64 kernel, in a machine of QEMU |
| `command` | code for all of them: arguments, steps and report |
| `architecture` | the machine types that are not this host's |
| `root`, `wheels` | the Debian root of a machine; promptlog and its dependencies, which are installed in it |
| `cache` | the folder `~/.cache/promptlog/deploy`, where both are kept between runs |
| `nspawn`, `qemu` | boot a root in a machine, and return the exit code of its job |
| `job` | the script that a machine runs after the boot |
| `inside`, `inside_deb`, `emulated` | the tests that run in the machine |
"""
