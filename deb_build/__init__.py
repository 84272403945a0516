"""Builds Debian packages: `python -m deb_build bookworm`, or `make deb`. Not part of a wheel.

docs/operations/install.md describes the packages.

A package has a virtual environment in /opt/promptlog, complete with all dependencies, for Debian's own Python. It
contains code for one version of Python, so each release of Debian has its own package. In return, dpkg knows every
file, the installation does not run pip, and dpkg refuses the package on a release with another Python.

`tree` makes the files, and `package` packs them into a .deb. `debian/` has the scripts that dpkg runs.
"""
