"""The C compiler of a build: the machine's own if it makes static-pie programs, otherwise the package `ziglang`."""

import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cell_build.errors import BuildError

ZIG_VERSION = "0.15.2"  # later versions take 35 s longer to build their C library
ZIG_REQUIREMENT = f"ziglang=={ZIG_VERSION}"
ZIG_LIBC = ("musl", "1.2.5")  # included in this version of ziglang
COMPILER_VARIABLE = "PROMPTLOG_COMPILER"
ARCHITECTURE_VARIABLE = "PROMPTLOG_ARCH"
ARCHITECTURES = ("x86_64", "aarch64")

PROBE = "#include <math.h>\n#include <stdio.h>\nint main(int n, char **v) { return printf(v[0]) < sqrt(n); }\n"
# Libraries whose content becomes a part of a static program.
HOST_LIBRARIES = ("libc.a", "libm.a", "libgcc.a", "libgcc_eh.a", "rcrt1.o", "crti.o", "crtbeginS.o")
# With these variables, a compiler uses other headers or libraries, or writes a time into its output.
MISLEADING_VARIABLES = ("CPATH", "C_INCLUDE_PATH", "LIBRARY_PATH", "LD_RUN_PATH", "GCC_EXEC_PREFIX", "COMPILER_PATH")


@dataclass(frozen=True, kw_only=True)
class Compiler:
    """A compiler command with everything that determines the bytes of its output."""

    command: tuple[str, ...]
    identity: str
    libc: tuple[str, str]  # name and version
    compile_flags: tuple[str, ...]
    link_flags: tuple[str, ...]
    is_zig: bool

    @property
    def name(self) -> str:
        return self.identity.partition("\n")[0]

    def run(self, arguments: Sequence[str], folder: Path, cache_folder: Path) -> None:
        """Compile or link in a folder. Raises BuildError with the compiler's messages."""
        environment = {name: value for name, value in os.environ.items() if name not in MISLEADING_VARIABLES}
        environment["LC_ALL"] = "C"
        if self.is_zig:
            environment.update(_zig_environment(folder, cache_folder))
        done = _run([*self.command, *arguments], folder, environment)
        if done.returncode != 0:
            raise BuildError(
                f"{shlex.join([*self.command, *arguments])}\n{done.stdout[-3000:]}",
                f"The compiler is {self.name}.  {COMPILER_VARIABLE}=zig uses {ZIG_REQUIREMENT} instead.",
            )


def target_architecture() -> str:
    """Return the architecture to build for. Raises BuildError if promptlog does not support it."""
    architecture = os.environ.get(ARCHITECTURE_VARIABLE) or platform.machine()
    if sys.platform != "linux" or architecture not in ARCHITECTURES:
        raise BuildError(
            f"there is no jail for {sys.platform} on {architecture}.",
            f"promptlog runs on Linux on {' and '.join(ARCHITECTURES)}.",
        )
    return architecture


def choose(architecture: str) -> Compiler:
    """Return the machine's compiler if it is usable, otherwise zig, whether or not zig is installed yet."""
    wanted = os.environ.get(COMPILER_VARIABLE, "")
    if wanted not in ("", "zig"):
        raise BuildError(f"{COMPILER_VARIABLE}={wanted} is unknown.", "Set it to zig, or set CC to a C compiler.")
    host = None if wanted == "zig" or architecture != platform.machine() else _host_compiler()
    return host or _zig(architecture)


def check_zig_is_installed() -> None:
    """Raise BuildError if the package `ziglang` is missing, or has another version than the pinned one."""
    try:
        installed = importlib.metadata.version("ziglang")
    except importlib.metadata.PackageNotFoundError:
        installed = None
    if installed != ZIG_VERSION:
        raise BuildError(
            "no C compiler here can make static programs (it needs the C library as libc.a), and "
            + (f"the version of ziglang is {installed}." if installed else "ziglang is not installed."),
            "Install a C compiler with a static C library (Debian: gcc and libc6-dev), build with isolation, or run: "
            f"pip install {ZIG_REQUIREMENT}",
        )


def _host_compiler() -> Compiler | None:
    command = shlex.split(os.environ.get("CC", "")) or ["cc"]
    if shutil.which(command[0]) is None:
        return None
    with tempfile.TemporaryDirectory(prefix="promptlog-probe-") as name:
        folder = Path(name)
        (folder / "probe.c").write_text(PROBE)
        link = [*command, "-w", "-fPIE", "-static-pie", "probe.c", "-lm", "-o", "probe"]
        if _run(link, folder).returncode != 0 or _run([str(folder / "probe")], folder).returncode != 0:
            return None
        version = _run([*command, "--version"], folder).stdout.strip()
        linker = _run([_printed(command, "-print-prog-name=ld", folder), "--version"], folder).stdout.partition("\n")[0]
        libraries = {library: _printed(command, f"-print-file-name={library}", folder) for library in HOST_LIBRARIES}
    contents = {library: Path(path).read_bytes() for library, path in libraries.items() if os.path.isabs(path)}
    digests = [f"{library} {hashlib.sha256(data).hexdigest()}" for library, data in contents.items()]
    return Compiler(
        command=tuple(command),
        identity="\n".join([version, linker, *digests]),
        libc=_libc_version(contents.get("libc.a", b"")),
        compile_flags=(),
        link_flags=("-static-pie", "-s"),
        is_zig=False,
    )


def _zig(architecture: str) -> Compiler:
    # By default zig makes undefined behaviour trap, and the engine has some that is harmless.
    target = ("-target", f"{architecture}-linux-musl", "-fno-sanitize=undefined")
    return Compiler(
        command=(sys.executable, "-m", "ziglang", "cc"),
        identity=ZIG_REQUIREMENT,
        libc=ZIG_LIBC,
        compile_flags=target,
        link_flags=(*target, "-pie", "-s"),
        is_zig=True,
    )


def _zig_environment(folder: Path, cache_folder: Path) -> dict[str, str]:
    """Return the variables with which zig keeps its C library, and nothing else, for later builds.

    zig's cache depends on the path of zig's files, and each isolated build installs zig in another folder. A symbolic
    link gives the files a constant path.
    """
    specification = importlib.util.find_spec("ziglang")
    assert specification is not None
    assert specification.origin is not None
    link = cache_folder / f"zig-{ZIG_VERSION}"
    library = Path(specification.origin).parent / "lib"
    if not link.is_symlink() or link.readlink() != library:
        temporary = link.with_name(f".new-{os.getpid()}")
        temporary.symlink_to(library)
        temporary.replace(link)
    return {
        "ZIG_LIB_DIR": str(link),
        "ZIG_GLOBAL_CACHE_DIR": str(cache_folder / "zig-cache"),
        "ZIG_LOCAL_CACHE_DIR": str(folder / "zig-cache"),
    }


def _libc_version(archive: bytes) -> tuple[str, str]:
    banner = re.search(rb"GNU C Library \(([^)]*)\)[^\n]* version ([0-9.]*[0-9])", archive)
    return ("glibc", f"{banner[2].decode()} ({banner[1].decode()})") if banner else ("libc", "unknown")


def _printed(command: Sequence[str], question: str, folder: Path) -> str:
    return _run([*command, question], folder).stdout.strip()


def _run(
    command: Sequence[str], folder: Path, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
