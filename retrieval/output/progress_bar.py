"""The progress of an index run: a bar on a terminal, lines elsewhere.

Other commands show `retrieval.output.terminal.progress_line`.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from retrieval.output.terminal import print_message

if TYPE_CHECKING:
    from retrieval import Progress

_THINGS = {
    "photos": "files",
    "captions": "captioned photos",
    "metadata": "files read again",
    "vectors": "photos prepared for fast search",
}
_TITLES = {
    "photos": "Indexing",
    "captions": "Captions",
    "metadata": "Metadata",
    "vectors": "Vectors",
}


@contextmanager
def progress_bar(quiet: bool) -> Iterator[Callable[["Progress"], None]]:
    """A bar on a terminal, a line every ten seconds elsewhere, nothing if quiet."""
    if quiet:
        yield lambda _: None
    elif sys.stderr.isatty():
        with _bar() as update:
            yield update
    else:
        last = time.monotonic()
        begun: dict[str, tuple[float, int]] = {}  # by what is done: when, and how many were done

        def line(now: "Progress") -> None:
            nonlocal last
            started, before = begun.setdefault(now.what, (time.monotonic(), now.done))
            if time.monotonic() - last >= 10:
                last = time.monotonic()
                what = _THINGS[now.what]
                skipped = f", {now.skipped} skipped" if now.what == "photos" else ""
                rate = (now.done - before) / max(last - started, 1.0)
                print_message(f"{now.done} of {now.total} {what}{skipped}{_to_go(now, rate)}")

        yield line


def _to_go(now: "Progress", rate: float) -> str:
    """The rate of things a second and the time that is left, once they are known."""
    if not rate:
        return ""
    minutes, seconds = divmod(round((now.total - now.done) / rate), 60)
    hours, minutes = divmod(minutes, 60)
    return f", {rate:.1f} a second, {hours}:{minutes:02d}:{seconds:02d} left"


@contextmanager
def _bar() -> Iterator[Callable[["Progress"], None]]:
    from rich import progress as bars
    from rich.console import Console

    with bars.Progress(
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TextColumn("{task.fields[rate]}"),
        bars.TimeRemainingColumn(),
        bars.TextColumn("{task.fields[skipped]}"),
        console=Console(stderr=True),
        transient=True,
    ) as bar:
        task = bar.add_task("Indexing", total=None, rate="looking for photos", skipped="")

        def update(now: "Progress") -> None:
            what = _TITLES[now.what]
            if bar.tasks[0].description != what:
                bar.reset(task, description=what)
            speed = bar.tasks[0].speed
            bar.update(
                task,
                total=now.total,
                completed=now.done,
                rate=f"{speed:.0f}/s" if speed else "",
                skipped=f"{now.skipped} skipped" if now.skipped else "",
            )

        yield update
