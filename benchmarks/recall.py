"""Recall@k of models and rankings on a captioned photo set, in both directions.

It goes the way a search goes: the same reading of photos, the same encoder, the same catalogue and
vectors, or an approximate index in their place. Run it as `retrieval benchmark recall` or
`python -m benchmarks.recall`.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from benchmarks import index_types, rankings
from benchmarks.index_types import Served, bars, build, recall
from indexes import vectors
from indexes.arrays import Floats, Ints
from retrieval.datasets.captioned import CaptionedSet
from retrieval.datasets.embedding_cache import (
    EmbeddingCache,
    Progress,
    drop_unreadable,
    open_embedding_cache,
)
from retrieval.encoders.registry import load_encoder
from retrieval.evaluation.bootstrap import Difference, Measured, compare, summarise
from retrieval.evaluation.metrics import METRICS, Ranks, inner_products, rank

Direction = Literal["both", "text-to-image", "image-to-text"]
_WAYS = {"text-to-image": "text_to_image", "image-to-text": "image_to_text"}
_CHECKED = 2000  # queries: half to choose an index's setting by, half to hold it to exact scores


@dataclass(frozen=True)
class IndexUsed:
    """An index that was searched: how FAISS was asked for it, the setting that was chosen for it,
    and how much of the exact first ten it gives, in percent."""

    factory: str
    setting: str
    recall: float


@dataclass(frozen=True)
class Run:
    """One model with one ranking through one type of index on one data set.

    ranks, measured, used: by direction; encoded: photos and captions that were not kept from an
    earlier run; seconds: wall time of all of it but reading the captions.
    """

    captioned: CaptionedSet
    model: str
    fingerprint: str
    ranking: str
    ranks: Mapping[str, Ranks]
    measured: Mapping[str, Mapping[str, Measured]]
    index_type: str
    used: Mapping[str, IndexUsed]
    encoded: tuple[int, int]
    seconds: float


def measure(
    captioned: CaptionedSet,
    models: Sequence[str] = ("auto",),
    names: Sequence[str] = ("plain",),
    types: Sequence[str] = ("exact",),
    direction: Direction = "both",
    skip_bad: bool = False,
    rebuild: bool = False,
    log: Callable[[str], None] = lambda _: None,
    progress: Progress = lambda *_: None,
) -> list[Run]:
    """A run for each model, each ranking and each type of index: `retrieval benchmark recall`.

    Raises RetrievalError: an unknown ranking, type or model, or a photo that cannot be read (but
    for skip_bad, which leaves such photos out with their captions).
    """
    chosen = {name: rankings.find(name) for name in names}
    index_types.check(types)
    ways = [way for flag, way in _WAYS.items() if direction in ("both", flag)]
    runs = []
    for model in models:
        started = time.perf_counter()
        encoder = load_encoder(model, log)
        with open_embedding_cache(encoder, progress, rebuild) as cache:
            photos, wrong = cache.photos(captioned.photos)
            used = drop_unreadable(captioned, wrong, skip_bad, log)
            texts = cache.texts(used.captions)
            encoded = (photos.fresh, texts.fresh)
            for name, ranking in chosen.items():
                rows = {
                    way: ranking(_task(way, used, photos.rows, texts.rows, cache, encoder))
                    for way in ways
                }
                for kind in types:
                    ranks, indexes = {}, {}
                    for way in ways:
                        owners = np.array(used.owners), np.arange(len(used.photos))
                        of, to = owners if way == "text_to_image" else owners[::-1]
                        ranks[way], indexes[way] = through(kind, *rows[way], of, to)
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
                            kind,
                            indexes,
                            encoded,
                            seconds,
                        )
                    )
                    started, encoded = time.perf_counter(), (0, 0)
    return runs


def _task(
    way: str, used: CaptionedSet, photos: Floats, texts: Floats, cache: EmbeddingCache, encoder: Any
) -> rankings.Task:
    queries, gallery = (texts, photos) if way == "text_to_image" else (photos, texts)
    return rankings.Task(
        way, queries, gallery, used.captions, encoder, lambda more: cache.texts(more).rows
    )


def through(
    kind: str, queries: Floats, gallery: Floats, of: Ints, to: Ints
) -> tuple[Ranks, IndexUsed]:
    """The ranks that a type of index gives, and the index.

    queries: float32 [m, dim]; gallery: float32 [n, dim]; of, to: their owners. What an approximate
    index does not give as a candidate is never found: it counts as the last.
    """
    part = vectors.Part(np.arange(len(gallery)), gallery)
    served = Served(kind, build(kind, gallery), part)
    sample = queries[:: max(1, len(queries) // _CHECKED)]
    for_setting, checked = sample[1::2], sample[::2]
    served.update_presence(for_setting, bars(gallery, for_setting))
    found = np.concatenate([served.search(query[None]) for query in checked])
    right = recall(gallery, checked, found, bars(gallery, checked))
    exact = inner_products(queries, gallery)

    def scores(part: slice) -> Floats:
        block, ids = exact(part), served.candidates(queries[part])
        here = np.zeros(block.shape, np.bool_)
        lines, places = np.nonzero(ids >= 0)
        here[lines, ids[lines, places]] = True
        return np.where(here, block, np.float32(-np.inf))

    ranks = rank(scores if served.kind.lossy else exact, of, to)
    return ranks, IndexUsed(served.kind.factory(len(gallery)), served.setting, right)


# As text --------------------------------------------------------------------------------------


def as_json(runs: Sequence[Run]) -> Any:
    """Plain values: one object for one run, a list for several.

    All measures are in percent but for MedR; each has its 95% interval beside it. Runs after the
    first say how much they are above it.
    """
    values = []
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
        value["index"] = {
            "kind": run.index_type,
            "recall@10": round(min(index.recall for index in run.used.values()), 4),
        }
        for way, index in run.used.items():
            value["index"][way] = {
                "factory": index.factory,
                "setting": index.setting,
                "recall@10": round(index.recall, 4),
            }
        value["encoded"] = {"images": run.encoded[0], "captions": run.encoded[1]}
        value["seconds"] = round(run.seconds, 3)
        values.append(value)
    return values[0] if len(values) == 1 else values


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
            f"{run.seconds:.1f} s, {photos:,} photos and {captions:,} captions encoded",
            *(_index_line(run, way) for way in run.used),
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


def _index_line(run: Run, way: str) -> str:
    index = run.used[way]
    kind = ", ".join(filter(None, (index.factory, index.setting)))
    return (
        f"index {run.index_type} ({kind}), {way.replace('_', ' ')}: gives {index.recall:.1f}% of "
        "the exact first ten"
    )


def _cell(found: Measured) -> str:
    return f"{found.value:5.1f} [{found.low:.1f}, {found.high:.1f}]"


def _above(first: Run, run: Run) -> list[str]:
    lines = []
    for way in run.measured:
        found = steps(first, run, way)
        if found:
            values = ", ".join(
                f"{name} {found[name].value:+.2f} [{found[name].low:+.2f}, {found[name].high:+.2f}]"
                for name in ("R@1", "R@5", "R@10")
            )
            what = f"{first.model}, {first.ranking}, {first.index_type}, {way.replace('_', ' ')}"
            lines.append(f"above {what}: {values}")
    return lines


if __name__ == "__main__":
    from benchmarks.commands import alone

    alone("recall")
