"""Recall@k of models and rankings on a captioned photo set, in both directions.

It uses what a search uses: the same decoding, encoder, catalogue and vectors, with an approximate
index in place of the exact one if asked. Run it as `retrieval benchmark recall` or
`python -m benchmarks.recall`.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from benchmarks import index_types, rankings
from benchmarks.given import Given, embeddings
from indexes.arrays import Floats, Ints
from indexes.vectors.rows import Rows
from indexes.vectors.store import KINDS
from retrieval.datasets.captioned import CaptionedSet
from retrieval.datasets.embedded import EmbeddedSet
from retrieval.datasets.embedding_cache import Progress
from retrieval.evaluation.bootstrap import Difference, Measured, compare, summarise
from retrieval.evaluation.metrics import METRICS, Ranks, inner_products, rank

DirectionOption = Literal["both", "text-to-image", "image-to-text"]
_DIRECTIONS = {"text-to-image": "text_to_image", "image-to-text": "image_to_text"}
_CHECKED = 1000  # queries: half choose an index's setting, half compare it with exact search
_FIRST = 10  # hits that are compared
_FOUND = 100  # hits that are asked of an approximate index; what comes later counts as last


@dataclass(frozen=True)
class RecallOptions:
    """What to compare: every model with every ranking through every type of index.

    skip_bad: leave out photos that cannot be read, with their captions, instead of raising;
    rebuild: encode everything again.
    """

    models: Sequence[str] = ("auto",)
    rankings: Sequence[str] = ("plain",)
    index_types: Sequence[str] = ("exact",)
    direction: DirectionOption = "both"
    skip_bad: bool = False
    rebuild: bool = False


@dataclass(frozen=True)
class IndexQuality:
    """An index that was searched: the setting chosen for it, and the share of the exact first ten
    that it finds, in percent."""

    setting: str
    recall: float


@dataclass(frozen=True)
class Run:
    """One model with one ranking through one type of index on one data set.

    ranks, measured, indexes: by direction (indexes is empty where the exact answers are not known);
    encoded: photos and captions that were not in the embedding cache; seconds: wall time without
    reading the captions.
    """

    captioned: CaptionedSet
    model: str
    fingerprint: str
    ranking: str
    ranks: Mapping[str, Ranks]
    measured: Mapping[str, Mapping[str, Measured]]
    index_type: str
    indexes: Mapping[str, IndexQuality]
    encoded: tuple[int, int]
    seconds: float


def measure(
    dataset: CaptionedSet | EmbeddedSet,
    options: RecallOptions = RecallOptions(),
    log: Callable[[str], None] = lambda _: None,
    progress: Progress = lambda *_: None,
) -> list[Run]:
    """One run for each model, ranking and type of index, in this order.

    Raises RetrievalError for an unknown ranking, type of index or model, and for a photo that
    cannot be read unless `skip_bad`.
    """
    chosen = {name: rankings.find(name) for name in options.rankings}
    index_types.check(options.index_types)
    directions = [d for flag, d in _DIRECTIONS.items() if options.direction in ("both", flag)]
    runs = []
    for model in options.models:
        started = time.perf_counter()
        with embeddings(
            dataset,
            model,
            options.skip_bad,
            options.rebuild,
            any(name != "plain" for name in chosen),
            log,
            progress,
        ) as given:
            encoded = given.encoded
            for name, ranking in chosen.items():
                rows = {d: ranking(_task(d, given)) for d in directions}
                for index_type in options.index_types:
                    found = {
                        d: rank_with_index(index_type, *rows[d], *_owners(d, given.captioned))
                        for d in directions
                    }
                    runs.append(
                        Run(
                            captioned=given.captioned,
                            model=given.model,
                            fingerprint=given.fingerprint,
                            ranking=name,
                            ranks={d: ranks for d, (ranks, _) in found.items()},
                            measured={d: summarise(ranks) for d, (ranks, _) in found.items()},
                            index_type=index_type,
                            indexes={d: index for d, (_, index) in found.items()},
                            encoded=encoded,
                            seconds=time.perf_counter() - started,
                        )
                    )
                    started, encoded = time.perf_counter(), (0, 0)
    return runs


def _task(direction: str, given: Given) -> rankings.Task:
    queries, gallery = given.photos, given.texts
    if direction == "text_to_image":
        queries, gallery = gallery, queries
    captions = given.captioned.captions
    return rankings.Task(direction, queries, gallery, captions, given.encoder, given.encode)


def _owners(direction: str, used: CaptionedSet) -> tuple[Ints, Ints]:
    """The photo that each query and each item of the gallery belongs to."""
    captions, photos = np.array(used.owners), np.arange(len(used.photos))
    return (captions, photos) if direction == "text_to_image" else (photos, captions)


def rank_with_index(
    index_type: str, queries: Floats, gallery: Floats, query_owners: Ints, gallery_owners: Ints
) -> tuple[Ranks, IndexQuality]:
    """The ranks that a type of index gives, and the quality of that index.

    queries: float32 [m, dim]; gallery: float32 [n, dim]; owners: int64 [m] and [n]. Of an
    approximate index the first hundred are asked: an item that it does not find counts as the last.
    """
    kind = next(known for known in KINDS if known == index_type)
    exact = inner_products(queries, gallery)
    sample = queries[:: max(1, len(queries) // _CHECKED)]
    sample = np.concatenate([sample, sample[-1:]])  # one query may be all
    with index_types.written(kind, gallery, sample) as stored:
        rows, setting = stored.rows, index_types.setting_name(stored.about)

        def scores(part: slice) -> Floats:
            block = exact(part)
            found = np.full(block.shape, -np.inf, np.float32)
            for line, query in enumerate(queries[part]):
                positions, _ = rows.nearest(query, _FOUND)
                found[line, positions] = block[line, positions]
            return found

        ranks = rank(exact if kind == "exact" else scores, query_owners, gallery_owners)
        share = _recall(rows, gallery, sample[1::2])  # the others chose the setting
    return ranks, IndexQuality(setting, share)


def _recall(rows: Rows, gallery: Floats, queries: Floats) -> float:
    """The share of the exact first ten that rows find of a gallery, in percent.

    An item counts if it scores as high as the exact tenth.
    """
    first = min(_FIRST, len(gallery))
    hits = 0
    for query in queries:
        scores = gallery @ query
        positions, _ = rows.nearest(query, first)
        lowest = np.partition(scores, -first)[-first] - 1e-6
        hits += int((scores[positions[:first]] >= lowest).sum())
    return 100 * hits / (len(queries) * first)


# As text --------------------------------------------------------------------------------------


def as_json(runs: Sequence[Run]) -> Any:
    """Plain values: one object for one run, a list for several.

    All measures but MedR are in percent and have 95% intervals. Runs after the first have their
    differences from the first.
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
        for direction, measured in run.measured.items():
            value[direction] = {name: round(found.value, 4) for name, found in measured.items()}
            value[direction]["intervals"] = {
                name: [round(found.low, 4), round(found.high, 4)]
                for name, found in measured.items()
            }
            if run is not runs[0]:
                value[direction]["above_first"] = {
                    name: {
                        "difference": round(gain.value, 4),
                        "interval": [round(gain.low, 4), round(gain.high, 4)],
                        "p": gain.p,
                    }
                    for name, gain in differences(runs[0], run, direction).items()
                }
        value["index"] = {"kind": run.index_type}
        if run.indexes:
            finds = min(index.recall for index in run.indexes.values())
            value["index"]["recall@10"] = round(finds, 4)
        for direction, index in run.indexes.items():
            value["index"][direction] = {
                "setting": index.setting,
                "recall@10": round(index.recall, 4),
            }
        value["encoded"] = {"images": run.encoded[0], "captions": run.encoded[1]}
        value["seconds"] = round(run.seconds, 3)
        values.append(value)
    return values[0] if len(values) == 1 else values


def differences(first: Run, second: Run, direction: str) -> dict[str, Difference]:
    """The differences of a run from the first; none if they do not use the same photos."""
    if first.captioned != second.captioned:
        return {}
    return compare(first.ranks[direction], second.ranks[direction])


def as_table(runs: Sequence[Run]) -> str:
    """A table for the terminal."""
    blocks = []
    for run in runs:
        photos, captions = run.encoded
        lines = [
            f"{run.captioned.name}, split {run.captioned.split}: "
            f"{len(run.captioned.photos):,} photos, {len(run.captioned.captions):,} captions",
            f"model {run.model} (weights {run.fingerprint}), ranking {run.ranking}; "
            f"{run.seconds:.1f} s, {photos:,} photos and {captions:,} captions encoded",
            *(_index_line(run, direction) for direction in run.indexes),
            " " * 9 + "".join(f"{d.replace('_', ' '):<24}" for d in run.measured).rstrip(),
        ]
        for name in METRICS:
            cells = (_cell(found[name]) for found in run.measured.values())
            lines.append(f"{name:<9}" + "".join(f"{cell:<24}" for cell in cells).rstrip())
        if run is not runs[0]:
            lines += _difference_lines(runs[0], run)
        blocks.append("\n".join(lines))
    note = "In percent (MedR: ranks), with 95% intervals from resampled photos; ties count against."
    return "\n\n".join([*blocks, note])


def _index_line(run: Run, direction: str) -> str:
    index = run.indexes[direction]
    setting = f" ({index.setting})" if index.setting else ""
    return (
        f"index {run.index_type}{setting}, {direction.replace('_', ' ')}: finds "
        f"{index.recall:.1f}% of the exact first ten"
    )


def _cell(found: Measured) -> str:
    return f"{found.value:5.1f} [{found.low:.1f}, {found.high:.1f}]"


def _difference_lines(first: Run, run: Run) -> list[str]:
    lines = []
    for direction in run.measured:
        found = differences(first, run, direction)
        if found:
            values = ", ".join(
                f"{name} {found[name].value:+.2f} [{found[name].low:+.2f}, {found[name].high:+.2f}]"
                for name in ("R@1", "R@5", "R@10")
            )
            what = f"{first.model}, {first.ranking}, {first.index_type}"
            lines.append(f"above {what}, {direction.replace('_', ' ')}: {values}")
    return lines


if __name__ == "__main__":
    from benchmarks.commands import alone

    alone("recall")
