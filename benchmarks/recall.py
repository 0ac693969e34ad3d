"""Recall@k of models and rankings on a captioned photo set, in both directions.

It goes the way a search goes: the same reading of photos, the same encoder, the same catalogue and
vectors. Run it as `retrieval benchmark recall` or `python -m benchmarks.recall`.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from benchmarks import rankings
from indexes import vectors
from retrieval.captioned import CaptionedSet
from retrieval.evaluation import METRICS, Difference, Measured, Ranks, compare, rank, summarise
from retrieval.kept import Kept, Progress, keep, without
from retrieval.models import load_encoder

Floats = npt.NDArray[np.float32]
Direction = Literal["both", "text-to-image", "image-to-text"]
_WAYS = {"text-to-image": "text_to_image", "image-to-text": "image_to_text"}
_CHECKED = 1000  # queries for which the index is held to exact scores


@dataclass(frozen=True)
class Run:
    """One model with one ranking on one data set.

    ranks: by direction; index_recall: how much of the exact first ten the index's own search
    gives, in percent; encoded: photos and captions that were not kept from an earlier run;
    seconds: wall time of all of it but reading the captions.
    """

    captioned: CaptionedSet
    model: str
    fingerprint: str
    ranking: str
    ranks: Mapping[str, Ranks]
    measured: Mapping[str, Mapping[str, Measured]]
    index_recall: float
    encoded: tuple[int, int]
    seconds: float


def measure(
    captioned: CaptionedSet,
    models: Sequence[str] = ("auto",),
    names: Sequence[str] = ("plain",),
    direction: Direction = "both",
    skip_bad: bool = False,
    rebuild: bool = False,
    say: Callable[[str], None] = lambda _: None,
    progress: Progress = lambda *_: None,
) -> list[Run]:
    """A run for each model with each ranking; see `retrieval benchmark recall --help`.

    Raises RetrievalError: an unknown ranking or model, or a photo that cannot be read (but for
    skip_bad, which leaves such photos out with their captions).
    """
    chosen = {name: rankings.find(name) for name in names}
    ways = [way for flag, way in _WAYS.items() if direction in ("both", flag)]
    runs = []
    for model in models:
        started = time.perf_counter()
        encoder = load_encoder(model, say)
        with keep(encoder, progress, rebuild) as kept:
            photos, wrong = kept.photos(captioned.photos)
            used = without(captioned, wrong, skip_bad, say)
            texts = kept.texts(used.captions)
            index_recall = against_exact(texts.rows, photos.rows)
            encoded = (photos.fresh, texts.fresh)
            for name, ranking in chosen.items():
                ranks = {}
                for way in ways:
                    task = _task(way, used, photos.rows, texts.rows, kept, encoder)
                    owners = np.array(used.owners), np.arange(len(used.photos))
                    of, to = owners if way == "text_to_image" else owners[::-1]
                    ranks[way] = rank(ranking(task), of, to)
                measured = {way: summarise(found) for way, found in ranks.items()}
                seconds = time.perf_counter() - started
                runs.append(
                    Run(
                        used,
                        encoder.name,
                        encoder.fingerprint,
                        name,
                        ranks,
                        measured,
                        index_recall,
                        encoded,
                        seconds,
                    )
                )
                started, encoded = time.perf_counter(), (0, 0)
    return runs


def _task(
    way: str, used: CaptionedSet, photos: Floats, texts: Floats, kept: Kept, encoder: Any
) -> rankings.Task:
    queries, gallery = (texts, photos) if way == "text_to_image" else (photos, texts)
    return rankings.Task(
        way, queries, gallery, used.captions, encoder, lambda more: kept.texts(more).rows
    )


def against_exact(queries: Floats, gallery: Floats, k: int = 10) -> float:
    """How much of the exact first `k` the index's search gives, in percent, by some queries.

    What scores as high as the exact k-th, to rounding, counts as found.
    """
    part = queries[:: max(1, len(queries) // _CHECKED)]
    k = min(k, len(gallery))
    index = [vectors.Part(np.arange(len(gallery)), gallery)]
    bars = np.partition(part @ gallery.T, -k, axis=1)[:, -k]
    found = 0
    for query, bar in zip(part, bars, strict=True):
        ids, _ = vectors.search(index, query, k)
        found += int((gallery[ids] @ query >= bar - 1e-6).sum())
    return 100 * found / (k * len(part))


# Told ------------------------------------------------------------------------------------------


def as_json(runs: Sequence[Run]) -> Any:
    """Plain values: one object for one run, a list for several.

    All measures are in percent but for MedR; each has its 95% interval beside it. Runs after the
    first say how much they are above it.
    """
    told = []
    for run in runs:
        value: dict[str, Any] = {
            "dataset": run.captioned.name,
            "split": run.captioned.split,
            "images": len(run.captioned.photos),
            "captions": len(run.captioned.captions),
            "model": run.model,
            "fingerprint": run.fingerprint,
            "ranking": run.ranking,
        }
        for way, measured in run.measured.items():
            value[way] = {name: round(found.value, 4) for name, found in measured.items()}
            value[way]["intervals"] = {
                name: [round(found.low, 4), round(found.high, 4)]
                for name, found in measured.items()
            }
            if run is not runs[0]:
                value[way]["above_first"] = {
                    name: {
                        "difference": round(step.value, 4),
                        "interval": [round(step.low, 4), round(step.high, 4)],
                        "p": step.p,
                    }
                    for name, step in steps(runs[0], run, way).items()
                }
        value["index"] = {"kind": "exact", "recall@10": round(run.index_recall, 4)}
        value["encoded"] = {"images": run.encoded[0], "captions": run.encoded[1]}
        value["seconds"] = round(run.seconds, 3)
        told.append(value)
    return told[0] if len(told) == 1 else told


def steps(first: Run, second: Run, way: str) -> dict[str, Difference]:
    """How much a run is above another; nothing where they are not over the same photos."""
    if first.captioned != second.captioned:
        return {}
    return compare(first.ranks[way], second.ranks[way])


def as_table(runs: Sequence[Run]) -> str:
    """Words and figures for a terminal."""
    blocks = []
    for run in runs:
        photos, captions = run.encoded
        lines = [
            f"{run.captioned.name}, split {run.captioned.split}: "
            f"{len(run.captioned.photos):,} photos, {len(run.captioned.captions):,} captions",
            f"model {run.model} (weights {run.fingerprint}), ranking {run.ranking}; "
            f"{run.seconds:.1f} s, {photos:,} photos and {captions:,} captions encoded; "
            f"the index gives {run.index_recall:.1f}% of the exact first ten",
            " " * 9 + "".join(f"{way.replace('_', ' '):<24}" for way in run.measured).rstrip(),
        ]
        for name in METRICS:
            cells = (_cell(found[name]) for found in run.measured.values())
            lines.append(f"{name:<9}" + "".join(f"{cell:<24}" for cell in cells).rstrip())
        if run is not runs[0]:
            lines += _above(runs[0], run)
        blocks.append("\n".join(lines))
    note = "In percent (MedR: ranks), with 95% intervals from resampled photos; ties count against."
    return "\n\n".join([*blocks, note])


def _cell(found: Measured) -> str:
    return f"{found.value:5.1f} [{found.low:.1f}, {found.high:.1f}]"


def _above(first: Run, run: Run) -> list[str]:
    lines = []
    for way in run.measured:
        found = steps(first, run, way)
        if found:
            told = ", ".join(
                f"{name} {found[name].value:+.2f} [{found[name].low:+.2f}, {found[name].high:+.2f}]"
                for name in ("R@1", "R@5", "R@10")
            )
            lines.append(f"above {first.model}, {first.ranking}, {way.replace('_', ' ')}: {told}")
    return lines


if __name__ == "__main__":
    from benchmarks.commands import alone

    alone("recall")
