"""The main job, measured as a user meets it: index a folder, index it again, search it cold.

Every figure is of a whole process of the installed `retrieval` command, from start to exit, with
its peak memory. Run it as `python -m benchmarks.main_job FOLDER [--model mini] [--json]`.
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
class Ran:
    """One process: wall seconds, peak resident MiB, what it printed, and processor seconds."""

    seconds: float
    mebibytes: float
    out: str
    cpu: float


@dataclass(frozen=True)
class Figures:
    """What `measure` found. Seconds are wall time, medians where repeated; memory is the peak."""

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


# Started by a process of ten megabytes: Linux counts the memory of the one that starts a program
# as the program's own peak.
_LAUNCH = """
import json, os, sys, time
started = time.perf_counter()
child = os.posix_spawn(sys.executable, [sys.executable, "-m", "cli", *sys.argv[1:]], os.environ)
_, status, usage = os.wait4(child, 0)
seconds = time.perf_counter() - started
cpu = usage.ru_utime + usage.ru_stime
print(json.dumps([os.waitstatus_to_exitcode(status), seconds, usage.ru_maxrss, cpu]))
"""


def run(*arguments: str) -> Ran:
    """Run `retrieval ARGUMENTS…` to its end; raises RuntimeError with its words if it fails."""
    command = [sys.executable, "-S", "-E", "-c", _LAUNCH, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    *lines, figures = done.stdout.splitlines(keepends=True)
    code, seconds, peak, cpu = json.loads(figures)
    text = "".join(lines) + done.stderr
    if code:
        raise RuntimeError(f"retrieval {' '.join(arguments)}: {text}")
    scale = 2**20 if sys.platform == "darwin" else 2**10  # ru_maxrss is in bytes there
    return Ran(seconds, peak / scale, text, cpu)


def measure(folder: Path, model: str, repeats: int = 5) -> Figures:
    """Index `folder` into a temporary index, then re-run and search it `repeats` times each."""
    with tempfile.TemporaryDirectory() as place:
        index = ["--index", place]
        first = run("index", str(folder), *index, "--model", model)
        again = [run("index", str(folder), *index) for _ in range(repeats)]
        search = [run("search", "a dog on the beach", *index) for _ in range(repeats)]
        found = json.loads(run("info", "--json", *index).out)
    helped = [run("--help") for _ in range(repeats)]
    rate = re.search(r"\((\d+) photos/s\)", first.out)
    return Figures(
        photos=found["photos"],
        model=found["made"]["model"],
        photos_per_second=float(rate[1]) if rate else 0.0,
        index_seconds=first.seconds,
        index_mebibytes=first.mebibytes,
        unchanged_seconds=statistics.median(r.seconds for r in again),
        unchanged_mebibytes=max(r.mebibytes for r in again),
        search_seconds=statistics.median(r.seconds for r in search),
        search_mebibytes=max(r.mebibytes for r in search),
        help_seconds=statistics.median(r.seconds for r in helped),
        machine=f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
    )


def as_table(figures: Figures) -> str:
    """The figures in the shape of the README's table."""
    rows = [
        ("index, first time", figures.index_seconds, figures.index_mebibytes),
        ("index, nothing changed", figures.unchanged_seconds, figures.unchanged_mebibytes),
        ("search, from a cold start", figures.search_seconds, figures.search_mebibytes),
        ("--help", figures.help_seconds, 0.0),
    ]
    lines = [
        f"{figures.photos} photos, model {figures.model}, {figures.machine}: "
        f"{figures.photos_per_second:.0f} photos/s",
        f"{'':<28}{'seconds':>9}{'peak MiB':>10}",
    ]
    lines += [f"{n:<28}{s:>9.2f}{m:>10.0f}" if m else f"{n:<28}{s:>9.2f}" for n, s, m in rows]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="a folder of photos, which is not changed")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--json", action="store_true", help="print JSON")
    chosen = parser.parse_args()
    figures = measure(chosen.folder, chosen.model)
    print(json.dumps(asdict(figures), indent=2) if chosen.json else as_table(figures))


if __name__ == "__main__":
    main()
