"""Builds the static executables `quickjs-cell`, which runs in the jail, and `launch`, which starts jails.

`hatch_build.py` calls this package when a wheel is built, also for an editable installation. The wheel does not contain
the package.

1. `engine_source` gets the engine's files: from the cache, from a folder of the user, or through pip.
2. `compiler` chooses the C compiler: the machine's own, or the package `ziglang`.
3. `cell` compiles these files together with promptlog's own C files, and links them.
4. `cache` keeps the fetched files and the results. `description` describes the content of the executables.

`python -m cell_build` builds without a wheel (docs/building.md).

Of all fetched files, the build executes only `ziglang`.
"""
