"""Shows what uses the CPU time of a run in a cell: `make bench-where`. Requires Linux's perf.

    python bench/where.py [--runs 1500]

perf samples a zygote and its children while they run the sample program repeatedly. Each sample is assigned to an
activity, for example a part of the kernel. The output also has the minor page faults of a run.
"""

from __future__ import annotations

import argparse
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import load
import onecell
import trio

_KERNEL = {
    "do_wp_page": "page faults: copying a page that is written to first",
    "filemap_map_pages": "page faults: mapping pages of code",
    "asm_exc_page_fault": "page faults: the rest",
    "__do_sys_clone": "fork",
    "do_seccomp": "putting on the second filter",
    "do_exit": "exit",
    "__x64_sys_exit_group": "exit",
    "do_syscall_64": "other system calls",
}
_USER = {"quickjs-cell": "the cell"}


async def sampled(runs: int, out: Path) -> tuple[int, float, float]:
    """Run the sample this often under perf. Returns the zygote's pid, and faults per run in children and zygote."""
    async with onecell.one_cell() as (cell, job):
        (zygote,) = load.children(cell.process.pid)
        command = ["perf", "record", "-q", "-g", "-e", "cpu-clock", "-F", "15000", "-o", str(out), "-p", str(zygote)]
        with subprocess.Popen(command) as perf:
            await trio.sleep(1)
            before = _faults(zygote)
            for _ in range(runs):
                await onecell.run(cell, job)
            after = _faults(zygote)
            perf.send_signal(signal.SIGINT)
    return zygote, *((late - early) / runs for early, late in zip(before, after, strict=True))


def _faults(pid: int) -> tuple[int, int]:
    """Return minor faults of the ended children, and of the process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[8]), int(fields[7])


def sort_samples(data: Path, zygote: int) -> Counter[tuple[str, str]]:
    """Return the number of samples by (process, activity)."""
    command = ["perf", "script", "-i", str(data), "-F", "pid,ip,sym,dso"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found: Counter[tuple[str, str]] = Counter()
    for sample in text.split("\n\n"):
        lines = sample.strip().splitlines()
        if len(lines) < 2 or not lines[0].strip().isdigit():
            continue
        whose = "zygote" if int(lines[0]) == zygote else "child"
        symbols = [line.split()[1] for line in lines[1:] if len(line.split()) > 1]
        kernel = (what for start, what in _KERNEL.items() if any(name.startswith(start) for name in symbols))
        binary = re.search(r"\(([^)]*)\)\s*$", lines[1])
        name = Path(binary[1]).name if binary else ""
        user = (what for start, what in _USER.items() if name.startswith(start))
        found[whose, next(kernel, None) or next(user, "the C library and the rest")] += 1
    return found


def main() -> None:
    """Take samples, sort them, and print the table."""
    parser = argparse.ArgumentParser(description="where the CPU time of a run in a cell goes")
    parser.add_argument("--runs", type=int, default=1500)
    options = parser.parse_args()
    if shutil.which("perf") is None:
        sys.exit("this needs perf; on Debian: apt-get install linux-perf")
    with tempfile.TemporaryDirectory(prefix="promptlog-where-") as folder:
        data = Path(folder) / "perf.data"
        zygote, children, own = trio.run(sampled, options.runs, data)
        found = sort_samples(data, zygote)
    total = sum(found.values())
    print(f"minor faults for each run: {children:.0f} in the child, {own:.0f} in the zygote")
    print(f"share of {total} samples")
    for (whose, what), count in found.most_common():
        if count * 200 > total:
            print(f"{100 * count / total:6.1f} %  {whose:7} {what}")


if __name__ == "__main__":
    main()
