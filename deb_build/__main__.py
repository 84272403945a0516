"""`python -m deb_build bookworm trixie`: make a package for each of these releases of Debian in dist/."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from deb_build import package, tree
from deb_build.release import RELEASES


def main() -> int:
    """Make the packages. Return 0, or 2 without dpkg-deb."""
    parser = argparse.ArgumentParser(prog="python -m deb_build")
    parser.add_argument("releases", nargs="+", choices=sorted(RELEASES), metavar="RELEASE")
    parser.add_argument("--output", type=Path, default=tree.ROOT / "dist", help="folder of the packages")
    parser.add_argument("--wheels", type=Path, help="folder with wheels, in place of a package index")
    arguments = parser.parse_args()
    if shutil.which("dpkg-deb") is None:
        print("dpkg-deb is not here: apt-get install dpkg", file=sys.stderr)
        return 2
    arguments.output.mkdir(parents=True, exist_ok=True)
    for name in arguments.releases:
        print(build(name, arguments.output, arguments.wheels), flush=True)
    return 0


def build(name: str, output: Path, wheels: Path | None = None) -> Path:
    """Make the package for one release of Debian, and return its path."""
    release = RELEASES[name]
    with tempfile.TemporaryDirectory(prefix="promptlog-deb-") as folder:
        found = tree.collect(release, Path(folder, "wheels"), found=wheels)
        tree.make(release, found, Path(folder, "tree"))
        return package.pack(release, Path(folder, "tree"), output)


if __name__ == "__main__":
    sys.exit(main())
