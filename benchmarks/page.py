"""How soon the page of `retrieval serve` shows photos after an address with a query is opened.

A browser without a cache opens several queries, one after another; the server runs beside it, on
the same cores. Run it as `python -m benchmarks.page INDEX`; it needs playwright and Chromium.
"""

import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import retrieval
from benchmarks.serve import running

_QUERIES = (
    "a dog running on the beach",
    "two men playing football",
    "a child in a red coat",
    "people at night in a city",
    "a horse and a rider",
    "a woman with a guitar",
    "a boat on a lake",
)
_PAUSE = 1.0  # seconds between queries; the server computes the thumbnails of the one before
_WINDOW = {"width": 1200, "height": 800}
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_WATCH = """() => new Promise((done) => {
  const times = {};
  const look = () => {
    const seen = [...document.querySelectorAll(".tile img")].filter((picture) => {
      const {top, bottom} = picture.getBoundingClientRect();
      return top < innerHeight && bottom > 0;
    });
    const ready = seen.filter((picture) => picture.complete && picture.naturalWidth);
    if (seen.length) times.hits ??= performance.now();
    if (ready.length) times.photo ??= performance.now();
    if (seen.length && ready.length === seen.length) done({...times, all: performance.now()});
    else requestAnimationFrame(look);
  };
  look();
})"""


@dataclass(frozen=True)
class Opening:
    """Medians in seconds since the address was opened: until hits have their places on the page,
    until the first photo is seen, until all in the window are. computed: whether the thumbnails
    had been computed before."""

    computed: bool
    hits: float
    photo: float
    all: float


def measure(index: Path, queries: Sequence[str] = _QUERIES) -> list[Opening]:
    """Measure each query twice: with thumbnails still to be computed, then with those kept."""
    from playwright.sync_api import sync_playwright

    browser = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if browser is None:
        raise retrieval.RetrievalError("No Chromium is on the path. Install one and try again.")
    with (
        tempfile.TemporaryDirectory() as temporary,
        running(index, Path(temporary)) as (url, _),
        sync_playwright() as playwright,
    ):
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        found = []
        for computed in (False, True):
            times = [_open(chromium, f"{url}?t={quote(query)}") for query in queries]
            middle = {k: statistics.median(t[k] for t in times) / 1e3 for k in times[0]}
            found.append(Opening(computed, **middle))
        chromium.close()
    return found


def _open(chromium: Any, address: str) -> dict[str, float]:
    """Milliseconds until what `Opening` names is there, in a browser with an empty cache."""
    time.sleep(_PAUSE)
    context = chromium.new_context(viewport=_WINDOW)
    page = context.new_page()
    page.goto(address, wait_until="commit")
    times: dict[str, float] = page.evaluate(_WATCH)
    context.close()
    return times


def main() -> None:
    """Print the table for the index that is named."""
    print(f"{'thumbnails':<14}{'hits, s':>10}{'photo, s':>10}{'all, s':>10}")
    for opening in measure(Path(sys.argv[1])):
        name = "kept" if opening.computed else "to compute"
        print(f"{name:<14}{opening.hits:>10.2f}{opening.photo:>10.2f}{opening.all:>10.2f}")


if __name__ == "__main__":
    from retrieval.commands.main import run

    run(main)
