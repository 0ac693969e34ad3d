"""How an approximate index should answer filters, and how it should find more than ten hits.

By the share of allowed rows, random ones and similar ones: how long exact search over them takes,
how long the engine takes with a selector and how much more of the rows it then has to look at, and
what the rules in `indexes/vectors/approximate.py` make of it, which were chosen from these figures.

    python -m benchmarks.search_filters DATASET --size 100k --type ivf --type hnsw
"""

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmarks.exact_answers import K
from benchmarks.index_process import timed
from benchmarks.index_types import check, written
from benchmarks.made_index import MadeRows
from benchmarks.search import parse_sizes
from indexes.arrays import Bools, Floats, Ints
from indexes.vectors.approximate import ApproximateRows
from indexes.vectors.rows import Rows, Selection
from indexes.vectors.store import KINDS, Kind
from retrieval.datasets.captioned import read_captioned
from retrieval.datasets.embedding_cache import open_embedding_cache
from retrieval.encoders.registry import load_encoder

SHARES = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01)
HITS = (10, 20, 50, 100, 200, 500, 1000)
FILTERED_RECALL, HITS_RECALL = 99.0, 98.0
_FACTORS = (1, 1.25, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 11, 16, 23, 32)
QUERIES = 100


@dataclass(frozen=True)
class Answered:
    """One way to answer. factor: how many times the breadth of a search for ten hits among all
    rows; milliseconds: the median; recall: of the exact best, in percent."""

    factor: float
    milliseconds: float
    recall: float


@dataclass(frozen=True)
class Case:
    """A filter or a number of hits.

    exact: the milliseconds of an exact search; enough: the smallest factor that finds enough, None
    if none does; rule: what the index does by itself.
    """

    kind: Kind
    allowed: Literal["all", "random", "similar"]
    share: float
    hits: int
    exact: float
    enough: Answered | None
    rule: Answered


@dataclass(frozen=True)
class _Fixed(ApproximateRows):
    """Rows that are always searched by their engine, with a given breadth."""

    factor: float = 1.0

    def searches_exactly(self, k: int, allowed: int) -> bool:
        return False

    def breadth_for(self, k: int, allowed: int) -> int:
        return math.ceil(self.breadth * self.factor)


def measure(rows: MadeRows, queries: Floats, kinds: Sequence[Kind]) -> Iterator[Case]:
    """Every case of every kind. queries: float32 [q, dim], of which some choose the settings."""
    made = np.concatenate([some for _, some, _ in rows.blocks()])
    near = np.concatenate([near for _, _, near in rows.blocks()])
    chosen = np.random.default_rng(rows.seed).random(len(made))
    choosing, asked = queries[QUERIES:], queries[:QUERIES]
    everything = np.ones(len(made), np.bool_)
    for kind in kinds:
        with written(kind, made, choosing) as stored:
            found = stored.rows
            assert isinstance(found, ApproximateRows)
            cases = [(Filtering("all", 1.0, everything), hits, HITS_RECALL) for hits in HITS]
            for share in SHARES:
                is_similar = rows.is_similar(share)[near]
                cases += [
                    (Filtering("random", share, chosen < share), K, FILTERED_RECALL),
                    (Filtering("similar", share, is_similar), K, FILTERED_RECALL),
                ]
            for filtering, hits, least in cases:
                best = _exact_best(made, asked, filtering.mask, hits)
                yield _case(kind, found, asked, filtering, hits, best, least)


@dataclass(frozen=True)
class Filtering:
    """Which rows are allowed: about this share of them, mask, bool [n]."""

    allowed: Literal["all", "random", "similar"]
    share: float
    mask: Bools


def _exact_best(made: Floats, queries: Floats, mask: Bools, hits: int) -> Ints:
    """The positions of the best allowed rows of each query, int64 [q, hits]."""
    allowed = np.flatnonzero(mask)
    scores = queries @ made[allowed].T
    hits = min(hits, len(allowed))
    return allowed[np.argpartition(scores, -hits, axis=1)[:, -hits:]]


def _case(
    kind: Kind,
    rows: ApproximateRows,
    queries: Floats,
    filtering: Filtering,
    hits: int,
    best: Ints,
    least: float,
) -> Case:
    ids = None if filtering.allowed == "all" else rows.ids[filtering.mask]
    selection = Selection(allowed=ids)
    enough = None
    for factor in _FACTORS:
        fixed = _Fixed(**{**_fields(rows), "factor": factor})
        tried = _answered(fixed, queries, selection, best, hits, factor)
        if tried.recall >= least:
            enough = tried
            break
    count = len(rows) if ids is None else len(ids)
    by_rule = 0.0
    if not rows.searches_exactly(hits, count):
        by_rule = rows.breadth_for(hits, count) / rows.breadth
    exact = Rows(rows.ids, rows.rows)
    return Case(
        kind=kind,
        allowed=filtering.allowed,
        share=filtering.share,
        hits=hits,
        exact=_answered(exact, queries[:20], selection, best, hits, 0.0).milliseconds,
        enough=enough,
        rule=_answered(rows, queries, selection, best, hits, by_rule),
    )


def _fields(rows: ApproximateRows) -> dict[str, Any]:
    return {name: getattr(rows, name) for name in ApproximateRows.__dataclass_fields__}


def _answered(
    rows: Rows,
    queries: Floats,
    selection: Selection,
    right: Ints,
    hits: int,
    factor: float,
) -> Answered:
    found = timed(lambda query: _best(*rows.nearest(query, hits, selection), hits), list(queries))
    shares = [
        len(np.intersect1d(some, best)) / max(len(best), 1)
        for some, best in zip(found.results, right, strict=False)
    ]
    return Answered(factor, found.quantile(0.5), 100 * float(np.mean(shares)))


def _best(positions: Ints, scores: Floats, hits: int) -> Ints:
    """The best of what was found: the exact search may give more, for rounding."""
    return positions[np.argsort(-scores, kind="stable")[:hits]]


def as_table(cases: Sequence[Case]) -> str:
    """A table for the terminal."""
    lines = [
        f"{'type':<8}{'allowed':<14}{'hits':>6}{'exact, ms':>11}{'factor':>8}{'ms':>8}"
        f"{'recall':>8}{'rule':>8}{'ms':>8}{'recall':>8}"
    ]
    for case in cases:
        which = "all" if case.allowed == "all" else f"{case.share:.0%} {case.allowed}"
        enough = "never" if case.enough is None else f"{case.enough.factor:.2f}"
        took = "" if case.enough is None else f"{case.enough.milliseconds:.2f}"
        recall = "" if case.enough is None else f"{case.enough.recall:.1f}"
        rule = f"{case.rule.factor:.2f}" if case.rule.factor else "exact"
        lines.append(
            f"{case.kind:<8}{which:<14}{case.hits:>6}{case.exact:>11.2f}{enough:>8}{took:>8}"
            f"{recall:>8}{rule:>8}{case.rule.milliseconds:>8.2f}{case.rule.recall:>8.1f}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path, help="captioned photos")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--size", default="100k")
    parser.add_argument("--type", action="append", help="ivf, hnsw, ivf-pq (repeatable)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args()
    names = given.type or ["ivf", "hnsw", "ivf-pq"]
    check(names)
    (size,) = parse_sizes(given.size)
    captioned = read_captioned(given.dataset)
    encoder = load_encoder(given.model)
    with open_embedding_cache(encoder, lambda *_: None) as cache:
        photos, unreadable = cache.photos(captioned.photos)
        readable = [p for i, p in enumerate(captioned.photos) if i not in unreadable]
        captions = sorted({caption for photo in readable for caption in photo.captions})
        order = np.random.default_rng(given.seed).permutation(len(captions))[: 5 * QUERIES]
        queries = cache.texts([captions[i] for i in order]).rows
    rows = MadeRows(photos.rows, size, given.seed)
    kinds = [kind for kind in KINDS if kind in names and kind != "exact"]
    cases = list(measure(rows, queries, kinds))
    print(json.dumps([asdict(c) for c in cases], indent=2) if given.json else as_table(cases))


if __name__ == "__main__":
    main()
