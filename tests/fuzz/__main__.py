"""`python -m tests.fuzz --seconds N --seed S`: fuzz every format that is read.

Damaged copies of whole files are read in a child process. What raises an unknown exception,
crashes, takes over 10 seconds of the processor or over 2 GB is saved, and the exit code is then 1.
The same seed gives the same cases; `--replay` reads a saved one again.
"""

import argparse
import itertools
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from tests.fuzz.cases import MODELS, TARGETS, write_case, write_seeds
from tests.fuzz.watch import Child, Fault


def main() -> int:
    """The exit code: 0 if nothing went wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="how long (60)")
    parser.add_argument("--seed", type=int, default=0, help="which cases (0)")
    parser.add_argument("--cases", type=int, help="at most so many of each format")
    parser.add_argument("--only", nargs="*", choices=list(TARGETS), help="formats; default all")
    parser.add_argument("--out", type=Path, default=Path("fuzz-failures"), help="for what fails")
    parser.add_argument("--replay", type=Path, metavar="FOLDER", help="read a saved case again")
    arguments = parser.parse_args()
    if arguments.replay:
        return replay(arguments.replay.resolve())
    return fuzz(
        arguments.out.resolve(),
        arguments.only or list(TARGETS),
        arguments.seed,
        arguments.seconds,
        arguments.cases,
    )


def fuzz(out: Path, targets: list[str], seed: int, seconds: float, most: int | None) -> int:
    """Run cases for some seconds, at most `most` of each format; save those that fail to `out`."""
    end = time.monotonic() + seconds
    for name in ("seeds", "work"):
        shutil.rmtree(out / name, ignore_errors=True)
    seeds, work = out / "seeds", out / "work"
    work.mkdir(parents=True)
    write_seeds(seeds)
    # What crashes on photos need not import torch again for models.
    children = {name: reader(seeds, work / f"{name}.log") for name in ("folders", "models")}
    cases: Counter[str] = Counter()
    spent: Counter[str] = Counter()
    faults = []
    try:
        for number in itertools.count() if most is None else range(most):
            if time.monotonic() > end and number:
                break
            for target in targets:
                folder, started = work / "case", time.monotonic()
                write_case(target, seeds, seed, number, folder)
                child = children["models" if target in MODELS else "folders"]
                fault = child.run(target, folder)
                cases[target] += 1
                spent[target] += time.monotonic() - started
                if fault is not None:
                    faults.append(target)
                    save(fault, target, seeds, seed, number, out)
                shutil.rmtree(folder, ignore_errors=True)
            if number % 500 == 499:  # memory that is never given back is not a case's fault
                for child in children.values():
                    child.close()
    finally:
        for child in children.values():
            child.close()
        shutil.rmtree(work, ignore_errors=True)
    for target in targets:
        print(
            f"{target:12} {cases[target]:6} cases {faults.count(target):4} faults "
            f"{spent[target]:7.1f} s"
        )
    if not faults:
        shutil.rmtree(out, ignore_errors=True)
        return 0
    print(f"The cases that failed are in {out}.")
    return 1


def reader(seeds: Path, log: Path) -> Child:
    """The process that reads the cases made from `seeds`."""
    command = [sys.executable, "-m", "tests.fuzz.child", str(seeds)]
    return Child(command, seeds / "home", log)


def save(fault: Fault, target: str, seeds: Path, seed: int, number: int, out: Path) -> None:
    """Write a case that failed again, as it was before it was read, with what went wrong."""
    folder = out / f"{target}-{seed}-{number}-{fault.kind}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    write_case(target, seeds, seed, number, folder / "case")
    (folder / "fault.txt").write_text(fault.detail)
    last = next((line for line in reversed(fault.detail.splitlines()) if line.strip()), "")
    print(f"{folder.name}: {last[:200]}", flush=True)


def replay(folder: Path) -> int:
    """Read a saved case again, in a copy."""
    target = folder.name.partition("-")[0]
    copy = folder / "again"
    shutil.rmtree(copy, ignore_errors=True)
    subprocess.run(["cp", "-a", folder / "case", copy], check=True)  # also pipes and links
    child = reader(folder.parent / "seeds", folder / "log")
    try:
        fault = child.run(target, copy)
    finally:
        child.close()
    print(f"{fault.kind}\n{fault.detail}" if fault else "nothing went wrong")
    return int(fault is not None)


if __name__ == "__main__":
    sys.exit(main())
