"""Many machines, measured: `milvus_speed` and `worker_scaling` together, as JSON and as text.

Run it as `retrieval benchmark cluster` or `python -m benchmarks.cluster`.
"""

import os
import platform
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.milvus_speed import MilvusSpeed
from benchmarks.worker_scaling import Scaling


@dataclass(frozen=True)
class Measurement:
    """What was measured, and where."""

    machine: str
    milvus: tuple[MilvusSpeed, ...] = ()
    photos: tuple[Scaling, ...] = ()
    sleeping: tuple[Scaling, ...] = ()


def machine() -> str:
    return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def as_json(found: Measurement) -> dict[str, Any]:
    """Plain values."""
    value = asdict(found)
    for speed, row in zip(found.milvus, value["milvus"], strict=True):
        row["per_second"] = speed.per_second
        row["filtered"] = {f"{share:.0%}": pair for share, pair in speed.filtered.items()}
    return value


def as_table(found: Measurement) -> str:
    """A line for each measurement."""
    lines = []
    for m in found.milvus:
        lines.append(
            f"Milvus {m.kind}, {m.vectors:,} × {m.dim}: written in {m.write_seconds:.0f} s, built "
            f"in {m.build_seconds:.0f} s ({m.per_second:,.0f} vectors a second); p50 {m.p50:.1f} "
            f"ms, p99 {m.p99:.1f} ms, recall@10 {m.recall:.1f}%"
        )
        lines += [
            f"  filtered to {share:.0%}: p50 {p50:.1f} ms, recall@10 {recall:.1f}%"
            for share, (p50, recall) in m.filtered.items()
        ]
    lines += [f"Photos, {s.workers} worker(s): {s.per_second:.1f} a second" for s in found.photos]
    lines += [
        f"Sleeping, {s.workers} worker(s): {s.per_second:,.0f} photos a second, efficiency "
        f"{s.efficiency:.1%}"
        for s in found.sleeping
    ]
    return "\n".join([*lines, found.machine])


if __name__ == "__main__":
    from benchmarks.commands import alone

    alone("cluster")
