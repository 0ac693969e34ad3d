"""End to end, as a user sees it: index a folder, index it again, search it from a cold start.

Every measurement is of a whole process of the `retrieval` command, from start to exit, with its
peak memory. Run it as `python -m benchmarks.end_to_end FOLDER [--model mini] [--json]`.
"""

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class ProcessRun:
    """A finished process: wall seconds, peak resident MiB, its output, and processor seconds."""

    seconds: float
    mebibytes: float
    out: str
    cpu: float


@dataclass(frozen=True)
class EndToEnd:
    """What `measure` found. Seconds are wall time, medians if repeated; memory is the peak."""

    photos: int
    model: str
    photos_per_second: float
    index_seconds: float
    index_mebibytes: float
    unchanged_seconds: float
    unchanged_mebibytes: float
    search_seconds: float
    search_mebibytes: float
    help_seconds: float
    machine: str


# Linux counts the memory of the process that starts a program as the program's own peak, so a small
# process of ten megabytes starts it.
_LAUNCH = """
import json, os, sys, time
started = time.perf_counter()
child = os.posix_spawn(sys.executable, [sys.executable, "-m", "cli", *sys.argv[1:]], os.environ)
_, status, usage = os.wait4(child, 0)
seconds = time.perf_counter() - started
cpu = usage.ru_utime + usage.ru_stime
print(json.dumps([os.waitstatus_to_exitcode(status), seconds, usage.ru_maxrss, cpu]))
"""


def run(*arguments: str) -> ProcessRun:
    """Run `retrieval ARGUMENTS…` to its end. Raises RuntimeError with its output if it fails."""
    command = [sys.executable, "-S", "-E", "-c", _LAUNCH, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    *lines, measured = done.stdout.splitlines(keepends=True)
    code, seconds, peak, cpu = json.loads(measured)
    text = "".join(lines) + done.stderr
    if code:
        raise RuntimeError(f"retrieval {' '.join(arguments)}: {text}")
    scale = 2**20 if sys.platform == "darwin" else 2**10  # ru_maxrss is in bytes there
    return ProcessRun(seconds, peak / scale, text, cpu)


def measure(folder: Path, model: str, repeats: int = 5) -> EndToEnd:
    """Index `folder` into a temporary index, then index and search it `repeats` times each."""
    with tempfile.TemporaryDirectory() as place:
        index = ["--index", place]
        first = run("index", str(folder), *index, "--model", model)
        again = [run("index", str(folder), *index) for _ in range(repeats)]
        search = [run("search", "a dog on the beach", *index) for _ in range(repeats)]
        info = json.loads(run("info", "--json", *index).out)
    helps = [run("--help") for _ in range(repeats)]
    rate = re.search(r"\((\d+) photos/s\)", first.out)
    return EndToEnd(
        photos=info["photos"],
        model=info["made"]["model"],
        photos_per_second=float(rate[1]) if rate else 0.0,
        index_seconds=first.seconds,
        index_mebibytes=first.mebibytes,
        unchanged_seconds=statistics.median(r.seconds for r in again),
        unchanged_mebibytes=max(r.mebibytes for r in again),
        search_seconds=statistics.median(r.seconds for r in search),
        search_mebibytes=max(r.mebibytes for r in search),
        help_seconds=statistics.median(r.seconds for r in helps),
        machine=f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
    )


def as_table(found: EndToEnd) -> str:
    """A table for the terminal."""
    rows = [
        ("index, first time", found.index_seconds, found.index_mebibytes),
        ("index, nothing changed", found.unchanged_seconds, found.unchanged_mebibytes),
        ("search, from a cold start", found.search_seconds, found.search_mebibytes),
        ("--help", found.help_seconds, 0.0),
    ]
    lines = [
        f"{found.photos} photos, model {found.model}, {found.machine}: "
        f"{found.photos_per_second:.0f} photos/s",
        f"{'':<28}{'seconds':>9}{'peak MiB':>10}",
    ]
    lines += [f"{n:<28}{s:>9.2f}{m:>10.0f}" if m else f"{n:<28}{s:>9.2f}" for n, s, m in rows]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="a folder of photos; it is not changed")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--json", action="store_true", help="print JSON")
    chosen = parser.parse_args()
    found = measure(chosen.folder, chosen.model)
    print(json.dumps(asdict(found), indent=2) if chosen.json else as_table(found))


if __name__ == "__main__":
    main()
