"""Builds `quickjs-cell`, the static executable that runs in the jail.

`hatch_build.py` calls this package when a wheel is built, also for an editable installation. The wheel does not contain
the package.

1. `engine_source` gets the engine's files: from the cache, from a folder of the user, or through pip.
2. `compiler` chooses the C compiler: the machine's own, or the package `ziglang`.
3. `cell` compiles these files together with promptlog's own C files, and links them.
4. `cache` keeps what was fetched and built. `description` describes the content of the executable.

`python -m cell_build` builds without a wheel: see docs/building.md.

Nothing that was fetched is executed, except `ziglang`.
"""
