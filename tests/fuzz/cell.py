"""Coverage-guided fuzzing of the QuickJS cell's parsers: `make fuzz-cell` (RUNS=10000000). Needs clang.

    python -m tests.fuzz.cell [-runs=N] [-max_total_time=SECONDS] [other options of libFuzzer]

Each C file of `cell_target` includes one of the cell's own files and calls its functions: the reader of jobs, the
writers of messages, the scans of a check (with a parser that gives arbitrary answers), the report of a run, the text
functions, the allocator, and packed bytecode. The first byte of an input chooses the function. Everything is built with
ASan and UBSan; the engine is built with ASan. The seeds are jobs, golden frames and sources. An input that fails is
written to `crash-*` in the current folder. Pass its path as the argument to run it again.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from cell_build import cache, checkout, embedded, engine_source
from sandbox.cells.job import Job
from sandbox.engines.quickjs.host.job import frame
from sandbox.engines.quickjs.host.wrapper import LOOSE
from sandbox.limits import Limits
from sandbox.program import Artifact, Form
from sandbox.protocol.frames import Task

_ROOT = Path(__file__).parents[2]
_CELL = _ROOT / checkout.SOURCE_FOLDER
_TARGET = Path(__file__).with_name("cell_target")
_GOLDEN = _ROOT / "tests/protocol/golden.jsonl"
_ALONE = ("memory.c", "errors.c", "plain.c", "places.c", "messages.c", "syntax.c", "tokens.c", "unplaced.c")
"""Files of the cell that are compiled unchanged, because no static function of them is called."""

_FLAGS = ("-O2", "-g", "-std=gnu11", "-D_GNU_SOURCE", '-DCELL_ENGINE_BUILD="fuzzed"')
_SANITIZED = ("-D__SANITIZE_ADDRESS__=1", "-fsanitize=address,undefined,fuzzer-no-link", "-fno-sanitize-recover=all")
_SOURCES = (
    b"return 1", b"\n  export const a = 1;", b"export default () => 1", b"import a from 'b'\nexport { a }", b"}\n1",
    b"// export default\r\n'export';\0\n\texport*", "const é = 'export default'".encode(), b"export default 1; export{",
)  # fmt: skip
_FAULT = (
    b"SyntaxError", b"unsupported keyword: export", b"    at eval_script:2:3\n", b"could not load module 'b'",
    b"unexpected token in expression: ''", b"Maximum call stack size exceeded", b"    at program:99:1\n",
)  # fmt: skip


def write_engine(files: engine_source.Files, folder: Path) -> None:
    """Write the engine's files and the generated headers into a new folder."""
    folder.mkdir()
    for name, data in {**files, **embedded.headers(_ROOT, platform.machine(), files)}.items():
        (folder / name).write_bytes(data)


def include_flags(engine: Path) -> list[str]:
    """Return the compiler flags for the headers of the target's files."""
    return [f"-I{part}" for part in (_CELL, engine, _TARGET)]


def target_files() -> list[Path]:
    """Return the C files of the target."""
    return sorted(_TARGET.glob("*.c"))


def build(folder: Path) -> Path:
    """Compile and link the target in a folder. The engine's objects are kept in the build cache."""
    clang = shutil.which("clang")
    if clang is None:
        sys.exit("fuzz-cell: clang is missing. Debian: apt install clang libclang-rt-dev")
    cache_folder = cache.open_folder()
    files = engine_source.find(cache_folder) or engine_source.fetch(cache_folder)
    engine = folder / "engine"
    write_engine(files, engine)
    kept = cache_folder / "fuzz-objects" / engine_source.SDIST_SHA256[:16]
    kept.mkdir(parents=True, exist_ok=True)

    def compile_engine(name: str) -> Path:
        made = kept / f"{name}.o"
        if not made.exists():
            new = folder / f"{name}.o"
            flags = [*_FLAGS, "-g0", "-O1", "-DNDEBUG", "-w", "-fsanitize=address"]
            subprocess.run([clang, *flags, "-c", str(engine / name), "-o", str(new)], check=True)
            cache.write(made, new.read_bytes())
        return made

    def compile_own(path: Path) -> Path:
        made = folder / f"{path.stem}.o"
        flags = [*_FLAGS, *_SANITIZED, "-Wall", "-Wextra", "-Werror"]
        subprocess.run([clang, *flags, *include_flags(engine), "-c", str(path), "-o", str(made)], check=True)
        return made

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        engines = threads.map(compile_engine, engine_source.C_FILES)
        own = threads.map(compile_own, [*target_files(), *(_CELL / name for name in _ALONE)])
        objects = [str(made) for made in (*engines, *own)]
    target = folder / "target"
    subprocess.run([clang, "-fsanitize=address,undefined,fuzzer", *objects, "-lm", "-o", str(target)], check=True)
    return target


def _text(data: bytes) -> bytes:
    """Encode a text for `take_text` in target.c."""
    return (bytes((len(data),)) if len(data) < 255 else b"\xff" + len(data).to_bytes(2, "big")) + data


def _jobs() -> Iterator[bytes]:
    for source in _SOURCES:
        for task, artifact in (
            (Task.RUN, Artifact(form=Form.BODY, language="javascript")),
            (Task.RUN, Artifact(form=Form.MODULE, language="javascript")),
            (Task.CHECK, None),
            (Task.CHECK_AND_RUN, None),
        ):
            for prompt in ("p", "p" * (17_000 if task is Task.CHECK else 5000)):
                job = Job(
                    task=task, source=source, artifact=artifact, engine="quickjs", language="javascript", prompt=prompt,
                    limits=Limits(),
                )  # fmt: skip
                yield b"".join(frame(job))


def seeds() -> Iterator[bytes]:
    """Yield inputs for each function."""
    golden = [msgspec.json.decode(line) for line in _GOLDEN.read_bytes().splitlines()]
    jobs = [*_jobs(), *(bytes.fromhex(line["hex"]) for line in golden if line["direction"] == "to")]
    sent = [bytes.fromhex(line["hex"]) for line in golden if line["direction"] == "from"]
    for job in jobs:  # a byte before each part gives its length
        yield b"\0" + b"".join(b"\xff" + job[at : at + 1786] for at in range(0, len(job), 1786))
        yield b"\0" + b"".join(b"\1" + job[at : at + 8] for at in range(0, min(len(job), 2000), 8))
    for data in sent:
        yield b"\1" + data
        yield b"\4" + data
    for source in _SOURCES:
        for fault in _FAULT:
            answer = b"\1" + _text(_FAULT[0]) + _text(fault) + _text(_FAULT[2])
            yield b"\2" + _text(source) + _text(LOOSE.encode()) + 4 * answer
        yield b"\2" + _text(source) + _text(b"f(") + b"\0\1" + 3 * _text(b"    at eval_script:9:9") + b"\0f(" + source
    for report in (
        b"[1]",
        b"!x\0name\0message\0stack",
        b"!o\0" + b"5",
        b"!b\0no JSON\0\0",
        b"!s\0text\0\0",
        b"!",
        b"!m",
    ):
        yield b"\3" + _text(report)
    for text in ("\ufeffé€😀", "a" * 100):
        yield b"\4" + text.encode() + b"\xf0\x9f\xed\xa0\x80\xc0\xff"
    yield b"\5" + bytes(range(256))
    source = bytes(range(200))
    yield b"\6" + _text(source) + _text(b"<" + source[3:] + b">" + source[:100] + b"!")
    packed = (
        (100).to_bytes(4, "big") + (2).to_bytes(4, "big") + b"<>" + (7).to_bytes(4, "big") + (98).to_bytes(4, "big")
    )
    yield b"\6" + _text(source) + _text(packed)


def main() -> int:
    """Fuzz, and return libFuzzer's exit code, which is 0 if no input failed."""
    with tempfile.TemporaryDirectory(prefix="promptlog-fuzz-cell-") as name:
        target = build(Path(name))
        corpus = Path(name) / "corpus"
        corpus.mkdir()
        for number, seed in enumerate(seeds()):
            (corpus / f"{number:04}").write_bytes(seed)
        arguments = sys.argv[1:]
        if all(argument.startswith("-") for argument in arguments):
            arguments = ["-max_len=20000", "-rss_limit_mb=4096", "-print_final_stats=1", *arguments, str(corpus)]
        environment = {"ASAN_OPTIONS": "quarantine_size_mb=16", **os.environ}  # freed memory that ASan holds back
        return subprocess.run([str(target), *arguments], env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
