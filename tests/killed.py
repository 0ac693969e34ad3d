"""Run one change of an index many times, each on a copy of its own, and kill each somewhere.

`python -m tests.killed CHANGE TEMPLATE PLACE MODEL KILLS SEED` copies the folder TEMPLATE to
PLACE/whole, where the change runs to its end and its steps are counted, then to PLACE/0, PLACE/1, …
and prints a line for each: how it was to be killed, and whether it was. Half are killed at a step:
before or after a statement of SQLite, in the middle of one, or at a change of a file's name. The
others at a moment of the clock, which may be in the middle of a system call.

Processes are forked, because importing everything takes longer than the change.
"""

import os
import random
import shutil
import signal
import sqlite3
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import retrieval
from indexes import database
from indexes.index import Index
from retrieval.indexing import commit, encode, fuse  # noqa: F401  # imported before the fork

GONE = "gone"  # the start of the names of photos that a change deletes
_EVENTS = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "open", "sqlite3.connect"}
_OPERATIONS = 300  # of SQLite's virtual machine between two steps


def change(name: str, folder: Path, model: str) -> None:
    """Do what the name says to an index of `folder`, in small batches."""
    options = retrieval.Options(batch_size=4)
    fuse._BATCH = 3
    if name == "rebuild":
        retrieval.index(folder, model=model, options=retrieval.Options(batch_size=4, rebuild=True))
    elif name == "prune":
        for path in folder.glob(f"{GONE}*"):
            path.unlink()
        retrieval.index(folder, options=retrieval.Options(batch_size=4, prune=True))
    elif name == "remove":
        left = [path for path in folder.glob(f"{GONE}*") if _indexed(folder, path)]
        if left:  # a run that was killed may have done it all
            retrieval.remove(left, folder)
    elif name == "fuse":
        for number, path in enumerate(sorted(folder.glob("*.txt"))):
            path.write_text(f"something else, number {number}")
        retrieval.index(folder, options=options)
    else:
        raise ValueError(name)


def _indexed(folder: Path, path: Path) -> bool:
    with Index.open(folder / ".retrieval") as index:
        located = index.locate(path)
        return located is not None and index.catalogue.files.any_below(located[0].id, located[1])


class _Steps:
    """Counts steps, and kills this process at the chosen one."""

    def __init__(self, last: int | None) -> None:
        self.count, self._last = 0, last

    def step(self) -> int:
        self.count += 1
        if self.count == self._last:
            os.kill(os.getpid(), signal.SIGKILL)
        return 0

    def watch(self, folder: Path) -> None:
        """Count what happens to the files of an index and to its database from now on."""
        inside = os.fspath(folder / ".retrieval")

        def audit(event: str, arguments: tuple[Any, ...]) -> None:
            if event in _EVENTS and inside in str(arguments[0]):
                self.step()

        step = self.step

        class Connection(sqlite3.Connection):
            def __init__(self, *arguments: Any, **options: Any) -> None:
                super().__init__(*arguments, **options)
                self.set_progress_handler(step, _OPERATIONS)

            def execute(self, *arguments: Any) -> sqlite3.Cursor:
                step()
                try:
                    return super().execute(*arguments)
                finally:
                    step()

            def executemany(self, *arguments: Any) -> sqlite3.Cursor:
                step()
                try:
                    return super().executemany(*arguments)
                finally:
                    step()

        connect = sqlite3.connect
        database.sqlite3.connect = lambda *a, **o: connect(*a, factory=Connection, **o)
        sys.addaudithook(audit)


def _in_child(work: Callable[[], None]) -> int:
    """Run `work` in a forked process; returns what `os.waitpid` gives."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            sys.stderr.flush()
            os._exit(code)
    return os.waitpid(pid, 0)[1]


def main(name: str, template: Path, place: Path, model: str, kills: int, seed: int) -> None:
    chance = random.Random(seed)
    whole, counted = place / "whole", place / "steps"
    shutil.copytree(template, whole)

    def count() -> None:
        steps = _Steps(None)
        steps.watch(whole)
        started = time.monotonic()
        change(name, whole, model)
        counted.write_text(f"{steps.count} {time.monotonic() - started}")

    if _in_child(count):
        raise SystemExit("the change failed without being killed")
    steps, seconds = counted.read_text().split()
    for number in range(kills):
        folder = place / str(number)
        shutil.copytree(template, folder)
        at_step = chance.randint(1, int(steps)) if number % 2 == 0 else None
        after = chance.uniform(0.1, 1) * float(seconds)

        def killed(
            folder: Path = folder, at_step: int | None = at_step, after: float = after
        ) -> None:
            if at_step is None:
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.setitimer(signal.ITIMER_REAL, after)
            else:
                _Steps(at_step).watch(folder)
            change(name, folder, model)

        status = _in_child(killed)
        how = f"at step {at_step} of {steps}" if at_step else f"after {after:.3f} s"
        if os.WIFEXITED(status) and os.WEXITSTATUS(status):
            raise SystemExit(f"the change failed {how} without being killed")
        print(how, "killed" if os.WIFSIGNALED(status) else "done", sep="\t", flush=True)


if __name__ == "__main__":
    change_name, source, where, model_name, how_many, random_seed = sys.argv[1:]
    main(change_name, Path(source), Path(where), model_name, int(how_many), int(random_seed))
