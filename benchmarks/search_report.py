"""What `benchmarks.search` measured, as plain values and as tables for the terminal."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.index_process import AT_ONCE
from benchmarks.search import Measurement, SearchResult


def as_json(measurement: Measurement) -> dict[str, Any]:
    """Plain values in milliseconds, seconds, bytes and percent."""
    value = asdict(measurement)
    value["choices"] = {
        str(size): {"kind": kind, "why": why} for size, (kind, why) in measurement.choices.items()
    }
    for result in value["results"]:
        if result["whole"] is not None:
            filtered = result["whole"]["filtered"]
            result["whole"]["filtered"] = {f"{s:.0%}": found for s, found in filtered.items()}
    return value


def as_table(measurement: Measurement) -> str:
    """Two tables: the vectors alone, and whole searches of photos."""
    bare = [
        ("vectors", "type", "setting", "recall@10", "1 query", "p99", f"{AT_ONCE} at once",
         "build", "memory", "disk"),
        ("", "", "", "%", "p50 ms", "ms", "a second", "s", "MB", "MB"),
        *(_bare_cells(result) for result in measurement.results),
    ]  # fmt: skip
    lines = [
        "Vectors alone; ours in the order of the default ranking, libraries by the cosine:",
        *_aligned(bare, left=(1, 2)),
        "",
    ]
    ours = [result for result in measurement.results if result.whole is not None]
    if ours:
        whole = [
            ("vectors", "type", "Photos.search", "p99", f"{AT_ONCE} at once", "in 10%",
             "recall@10", "in 1%", "recall@10", "command", "peak"),
            ("", "", "p50 ms", "ms", "a second", "p50 ms", "%", "p50 ms", "%", "s", "MiB"),
            *map(_whole_cells, ours),
        ]  # fmt: skip
        lines += [
            "Whole searches, in all photos and in folders of similar ones:",
            *_aligned(whole, left=(1,)),
            "",
        ]
    lines += [
        f"{size:,} vectors: auto takes {kind}: {why}."
        for size, (kind, why) in measurement.choices.items()
    ]
    m = measurement
    lines.append(
        f"Made from {m.photos:,} photos by model {m.model} (weights {m.fingerprint}, {m.dim} "
        f"numbers), seed {m.seed}; {m.machine}; {m.seconds:.0f} s."
    )
    return "\n".join(lines)


def _bare_cells(result: SearchResult) -> tuple[str, ...]:
    speed = result.speed
    return (
        f"{result.vectors:,}",
        result.kind if result.whole is not None else f"{result.kind} ({result.about})",
        speed.setting,
        f"{speed.recall:.1f}",
        f"{speed.p50:.2f}",
        f"{speed.p99:.2f}",
        f"{speed.per_second:,.0f}",
        f"{result.build_seconds:.1f}",
        f"{speed.memory / 1e6:,.0f}",
        f"{result.disk / 1e6:,.0f}",
    )


def _whole_cells(result: SearchResult) -> tuple[str, ...]:
    whole, cold = result.whole, result.cold
    assert whole is not None and cold is not None
    filtered = [
        cell
        for found in whole.filtered.values()
        for cell in (f"{found.p50:.1f}", f"{found.recall:.1f}")
    ]
    return (
        f"{result.vectors:,}",
        result.kind,
        f"{whole.p50:.1f}",
        f"{whole.p99:.1f}",
        f"{whole.per_second:,.0f}",
        *filtered,
        f"{cold.seconds:.2f}",
        f"{cold.mebibytes:.0f}",
    )


def _aligned(rows: Sequence[Sequence[str]], left: Sequence[int]) -> list[str]:
    """Rows as lines of columns; those in `left` start at the same place, the others end there."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
