"""Draw the results of benchmarks as PNG charts. Needs matplotlib, which is an extra."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from indexes.errors import StorageError
from retrieval.errors import QueryError

if TYPE_CHECKING:
    from benchmarks.fusion import Fused
    from benchmarks.recall import Run
    from benchmarks.search import Measurement
    from benchmarks.startup import Startup
    from benchmarks.throughput import Throughput
    from retrieval.evaluation.bootstrap import Measured

_COLOURS = (
    *("#4477aa", "#ee6677", "#228833", "#ccbb44"),
    *("#66ccee", "#aa3377", "#777777", "#000000"),
)


def check(file: Path | None) -> None:
    """Raise QueryError if a chart cannot be drawn; called before anything is measured."""
    if file is None:
        return
    if file.suffix.lower() != ".png":
        raise QueryError(f"A chart is a PNG file, not {file}. Name one, such as --plot chart.png.")
    _figure(1)


def recall(runs: Sequence[Run], file: Path) -> None:
    """R@1, R@5 and R@10 of each run as bars with intervals, one panel per direction."""
    directions = list(runs[0].measured)
    figure, panels = _figure(len(directions))
    width = 0.8 / len(runs)
    for direction, panel in zip(directions, panels, strict=True):
        for i, run in enumerate(runs):
            found = [run.measured[direction][name] for name in ("R@1", "R@5", "R@10")]
            bars = panel.bar(
                [x + (i - (len(runs) - 1) / 2) * width for x in range(3)],
                [value.value for value in found],
                width * 0.92,
                yerr=_errors(found),
                capsize=3,
                color=_COLOURS[i % len(_COLOURS)],
                label=f"{run.model}, {run.ranking}, {run.index_type}",
            )
            labels = [f"{value.value:.1f}" for value in found]
            panel.bar_label(bars, labels, padding=2, fontsize=8)
        panel.set_xticks(range(3), ["R@1", "R@5", "R@10"])
        panel.set_ylim(0, 105)
        panel.set_ylabel("queries with a right item, %")
        panel.set_title(direction.replace("_", " "))
    panels[0].legend(frameon=False, fontsize=8, loc="upper left")
    first = runs[0].captioned
    figure.suptitle(
        f"{first.name}, split {first.split}: {len(first.photos):,} photos, "
        f"{len(first.captions):,} captions (95% intervals)"
    )
    _save(figure, file)


def fusion(fused: Fused, file: Path) -> None:
    """R@1 of each method as bars with intervals, one panel per case."""
    figure, panels = _figure(len(fused.cases))
    for (case, methods), panel in zip(fused.cases.items(), panels, strict=True):
        found = [method.measured["R@1"] for method in methods.values()]
        bars = panel.bar(
            range(len(found)),
            [value.value for value in found],
            yerr=_errors(found),
            capsize=3,
            color=_COLOURS[: len(found)],
        )
        panel.bar_label(bars, [f"{value.value:.1f}" for value in found], padding=2, fontsize=8)
        names = [name.replace("_", "\n") for name in methods]
        panel.set_xticks(range(len(found)), names, fontsize=7)
        panel.set_ylabel("R@1, %")
        panel.set_title(case.replace("_", " "))
    figure.suptitle(
        f"{fused.captioned.name}, split {fused.captioned.split}: {fused.model}, {fused.fusion}"
    )
    _save(figure, file)


def search(measurement: Measurement, file: Path) -> None:
    """Median time of one query and recall@10 by size, one line per kind or library."""
    figure, (times, recalls) = _figure(2)
    kinds = list(dict.fromkeys(found.kind for found in measurement.results))
    for number, kind in enumerate(kinds):
        found = [f for f in measurement.results if f.kind == kind]
        sizes = [f.vectors for f in found]
        is_ours = found[0].whole is not None
        style = {
            "marker": "o" if is_ours else "x",
            "linestyle": "-" if is_ours else ":",
            "color": _COLOURS[number % len(_COLOURS)],
        }
        times.plot(sizes, [f.speed.p50 for f in found], label=kind, **style)
        recalls.plot(sizes, [f.speed.recall for f in found], **style)
    times.set_yscale("log")
    times.set_ylabel("one query of the vectors alone, median ms")
    recalls.set_ylabel("recall@10 against exact, %")
    for panel in (times, recalls):
        panel.set_xscale("log")
        panel.set_xlabel("vectors")
    times.legend(frameon=False, fontsize=8, loc="upper left")
    figure.suptitle(
        f"Search by kind of vectors (dotted: other libraries), {measurement.dim} numbers"
    )
    _save(figure, file)


def throughput(found: Throughput, file: Path) -> None:
    """Photos per second of every pipeline, one panel per size."""
    sizes = sorted({speed.megapixels for speed in found.speeds})
    figure, panels = _figure(len(sizes))
    for size, panel in zip(sizes, panels, strict=True):
        speeds = [speed for speed in found.speeds if speed.megapixels == size]
        colours = [_COLOURS[i % len(_COLOURS)] for i in range(len(speeds))]
        bars = panel.bar(range(len(speeds)), [s.photos_per_second for s in speeds], color=colours)
        panel.bar_label(bars, [f"{s.photos_per_second:.0f}" for s in speeds], fontsize=8)
        names = [speed.way.replace(", ", ",\n") for speed in speeds]
        panel.set_xticks(range(len(speeds)), names, fontsize=7)
        panel.set_title(f"{size:g} megapixels")
        panel.set_ylabel("photos per second")
    figure.suptitle(f"{found.model}, engine {found.engine}, {found.machine}")
    _save(figure, file)


def startup(found: Startup, file: Path) -> None:
    """Seconds of a search and of --help, and of the slowest imports."""
    figure, (whole, parts) = _figure(2)
    bars = whole.bar(["search", "--help"], [found.search_seconds, found.help_seconds])
    whole.bar_label(bars, fmt="%.2f")
    whole.set_ylabel("seconds from a cold start")
    names = [name for name, _ in found.imports]
    parts.bar(range(len(names)), [1000 * seconds for _, seconds in found.imports])
    parts.set_xticks(range(len(names)), names, rotation=30, ha="right", fontsize=8)
    parts.set_ylabel("milliseconds to import")
    figure.suptitle(f"{found.photos:,} photos, {found.model}, {found.machine}")
    _save(figure, file)


def _figure(panels: int) -> tuple[Any, Sequence[Any]]:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise QueryError(
            "Charts need matplotlib: run `pip install 'crossmodal-retrieval[plot]'`, or leave out "
            "--plot."
        ) from error
    figure = Figure(figsize=(5 * panels + 1, 4.2), layout="constrained", dpi=150)
    axes = figure.subplots(1, panels, squeeze=False)[0]
    for panel in axes:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(axis="y", alpha=0.3)
        panel.set_axisbelow(True)
    return figure, axes


def _errors(found: Sequence[Measured]) -> list[list[float]]:
    """The lengths of error bars below and above each value."""
    below = [value.value - value.low for value in found]
    return [below, [value.high - value.value for value in found]]


def _save(figure: Any, file: Path) -> None:
    try:
        figure.savefig(file)
    except OSError as error:
        raise StorageError(
            f"The chart {file} cannot be written ({error.strerror}). Choose another path."
        ) from error
