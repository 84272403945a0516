"""Builds Debian packages: `python -m deb_build bookworm`, or `make deb`. Not part of a wheel.

docs/operations/install.md describes the packages.

A package has a virtual environment in /opt/promptlog, complete with all dependencies, for Debian's own Python. It
contains code for one version of Python, so each release of Debian has a package of its own. In return, dpkg knows each
file, the installation executes nothing of pip, and a release with another Python refuses the package.

`tree` makes the files, `package` makes the .deb of them. `debian/` has the scripts that dpkg runs.
"""
