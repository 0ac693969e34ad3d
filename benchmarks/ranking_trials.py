"""How much each ranking gains over the plain cosine on captioned photos; tuning of constants.

    python -m benchmarks.ranking_trials DATASET[:SPLIT]... [--bank DATASET:SPLIT|FILE.txt] [--tune]

Text to photo, exact search, every caption is a query. Differences are paired, with 95% intervals
from 1,000 resamples of the photos, each with all its captions. `--tune` chooses the constants of
NNN and QB-Norm on one half of the photos and reports on the other half, both ways. Embeddings are
cached as by `benchmark recall`. A bank must not contain the queries: captions that are also in the
bank are removed from it and counted.
"""

import argparse
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np

from indexes import fulltext
from indexes.arrays import Bools, Floats, Ints
from indexes.database import FULL_TEXT
from retrieval.datasets.captioned import CaptionedSet, read_captioned
from retrieval.datasets.embedding_cache import EmbeddingCache, open_embedding_cache
from retrieval.encoders.registry import load_encoder
from retrieval.errors import DataSetError
from retrieval.evaluation.bootstrap import compare, summarise
from retrieval.evaluation.metrics import Ranks, rank
from retrieval.fusion.attention import Fusion
from retrieval.fusion.store import load_fusion
from retrieval.ranking import lexical, query_bank
from retrieval.ranking.hubness import NNN_STRENGTH, inverted_softmax_bias, nnn_bias
from retrieval.ranking.methods import RANKINGS, Ranking, templated, transform

Bank = tuple[tuple[str, ...], Floats]
"""Sentences and their embeddings, float32 [b, dim]."""

_NNN_GRID = tuple(product((4, 8, 16, 32, 64, 128), (0.25, 0.4, 0.5, 0.6, 0.75)))
_QBNORM_GRID = (5.0, 10.0, 20.0, 50.0)


@dataclass(frozen=True)
class EmbeddedSet:
    """A captioned set. photos: float32 [n, dim]; texts: of the captions, float32 [m, dim]; owners:
    the photo of each caption, int64 [m]."""

    name: str
    captions: tuple[str, ...]
    photos: Floats
    texts: Floats
    owners: Ints

    def half(self, parity: int) -> Bools:
        """Which captions belong to photos at even (0) or odd (1) positions: bool [m]."""
        result: Bools = self.owners % 2 == parity
        return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("datasets", nargs="+", metavar="DATASET[:SPLIT]")
    parser.add_argument("--bank", action="append", default=[], metavar="DATASET:SPLIT or FILE.txt")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--tune", action="store_true")
    chosen = parser.parse_args()
    encoder = load_encoder(chosen.model)
    banks: dict[str, Bank] = {
        "generic": (query_bank.generic_queries(), query_bank.bank_embeddings(encoder))
    }
    print(f"Model {encoder.name}, weights {encoder.fingerprint}.")
    with open_embedding_cache(encoder, lambda *_: None) as cache:
        banks.update((Path(name).name, _bank(name, cache)) for name in chosen.bank)
        for name in chosen.datasets:
            data = _embed(_read(name), cache)
            print(f"\n{data.name}: {len(data.photos):,} photos, {len(data.texts):,} captions\n")
            fusion = load_fusion(encoder.fingerprint, encoder.dim)
            tables = [
                _compare_rankings(data, banks, cache),
                _compare_hybrids(data, banks["generic"][1], fusion),
            ]
            tables += [_tune(data, banks["generic"][1])] if chosen.tune else []
            for lines in tables:
                print("\n".join(lines), flush=True)
                print()


# Rankings by vectors -----------------------------------------------------------------------------

_HEAD = "| Ranking | Bank | R@1 | R@5 | R@10 | Δ R@1 (95% interval) |\n|---|---|---:|---:|---:|---|"


def _compare_rankings(
    data: EmbeddedSet, banks: Mapping[str, Bank], cache: EmbeddingCache
) -> Iterator[str]:
    yield _HEAD
    no_bank = np.empty((0, data.photos.shape[1]), np.float32)
    plain = compute_ranks(RANKINGS["plain"], data, data.texts, no_bank)
    for name, ranking in RANKINGS.items():
        if ranking.lexical:
            continue
        texts = data.texts
        if ranking.templates:
            texts = templated(ranking, list(data.captions), lambda more: cache.texts(more).rows)
        if ranking.bias is None:
            ranks = plain if name == "plain" else compute_ranks(ranking, data, texts, no_bank)
            yield _row(name, "–", ranks, plain)
            continue
        for bank_name, (sentences, rows) in banks.items():
            unused = ~np.isin(sentences, data.captions)
            note = "" if unused.all() else f" (without {(~unused).sum()} that are queries)"
            ranks = compute_ranks(ranking, data, texts, rows[unused])
            yield _row(name, bank_name + note, ranks, plain)


def compute_ranks(ranking: Ranking, data: EmbeddedSet, texts: Floats, rows: Floats) -> Ranks:
    """The ranks of the true photos of `texts`, float32 [m, dim]. rows: the bank's embeddings."""
    photos, queries = transform(ranking, data.photos, texts, rows)
    return rank(lambda part: queries[part] @ photos.T, data.owners, np.arange(len(photos)))


def _row(name: str, note: str, ranks: Ranks, plain: Ranks) -> str:
    found, gain = summarise(ranks), compare(plain, ranks)["R@1"]
    recalls = " | ".join(f"{found[f'R@{k}'].value:.2f}" for k in (1, 5, 10))
    difference = (
        "–" if ranks is plain else f"{gain.value:+.2f} ({gain.low:+.2f} to {gain.high:+.2f})"
    )
    return f"| {name} | {note} | {recalls} | {difference} |"


# Constants ---------------------------------------------------------------------------------------


def _tune(data: EmbeddedSet, rows: Floats) -> Iterator[str]:
    """Constants chosen on one half of the photos, and the result on the other half."""
    yield "| Tuned | Chosen on even, odd photos | Δ R@1 on the other half (95% interval) |"
    yield "|---|---|---|"
    plain = compute_ranks(RANKINGS["plain"], data, data.texts, rows)
    nnn = {
        f"k={k}, strength={strength}": partial(nnn_bias, k=k, strength=strength)
        for k, strength in _NNN_GRID
    }
    qbnorm = {
        f"sharpness={sharpness:g}": partial(inverted_softmax_bias, sharpness=sharpness)
        for sharpness in _QBNORM_GRID
    }
    for name, grid in (("nnn", nnn), ("qbnorm", qbnorm)):
        runs = [
            (
                label,
                compute_ranks(Ranking(name, "", bias, name == "qbnorm"), data, data.texts, rows),
            )
            for label, bias in grid.items()
        ]
        best = [max(runs, key=partial(_recall_on, data.half(parity))) for parity in (0, 1)]
        crossed = np.where(data.half(1)[:, None], best[0][1].ranks, best[1][1].ranks)
        gain = compare(plain, Ranks(crossed, plain.owners))["R@1"]
        yield (
            f"| {name} | {best[0][0]}; {best[1][0]} | {gain.value:+.2f} "
            f"({gain.low:+.2f} to {gain.high:+.2f}) |"
        )


def _recall_on(half: Bools, run: tuple[str, Ranks]) -> float:
    return float(run[1].values["R@1"][half].mean())


# Full-text search --------------------------------------------------------------------------------


def _compare_hybrids(data: EmbeddedSet, rows: Floats, fusion: Fusion) -> Iterator[str]:
    """Rankings combined with full-text search. One caption of each photo is stored, the others are
    queries. Photos are ranked by their image embedding, and fused with the stored caption."""
    stored = np.unique(data.owners, return_index=True)[1]
    queries = np.setdiff1d(np.arange(len(data.owners)), stored)
    owners, n = data.owners[queries], len(data.photos)
    if len(queries) == 0:
        return
    with sqlite3.connect(":memory:") as db:
        db.execute(FULL_TEXT)
        texts = (fulltext.stored_text(data.captions[s]) for s in stored)
        fulltext.insert(db, ((i, text, "") for i, text in enumerate(texts)))
        found = np.zeros((len(queries), n), np.float32)
        weights = np.empty((len(queries), 1), np.float32)
        for line, query in enumerate(queries):
            expression = lexical.match_expression([data.captions[query]])
            for photo, score in fulltext.search(db, expression, n) if expression else ():
                found[line, photo] = score
            every = lexical.match_expression([data.captions[query]], all_words=True)
            weights[line] = lexical.lexical_weight(
                len(fulltext.search(db, every, n)) if every else 0, n
            )

    def ranks(scores: Floats) -> Ranks:
        return rank(lambda part: scores[part], owners, np.arange(n))

    plain = ranks(data.texts[queries] @ data.photos.T)
    yield "One caption of each photo is stored and searched in full text, the others are queries:\n"
    yield _HEAD
    fused, _ = fusion.photos(data.photos, data.texts[stored])
    for what, gallery in (("photos", data.photos), ("fused", fused)):
        cosines = data.texts[queries] @ gallery.T
        bias = nnn_bias(gallery, rows)
        nnn = cosines - bias
        means = cosines.mean(1, keepdims=True)
        zero, typical = means - bias.mean(), bias.mean() / NNN_STRENGTH - means
        yield _row(f"{what}, plain", "–", plain if what == "photos" else ranks(cosines), plain)
        yield _row(f"{what}, nnn", "generic", ranks(nnn), plain)
        both = lexical.reciprocal_rank_fusion(nnn, found)
        yield _row(f"{what}, reciprocal rank", "generic", ranks(both), plain)
        for weight in (0.05, 0.1, 0.2, 0.3, 0.4):
            both = lexical.convex_combination(nnn, found, zero, typical, weight)
            yield _row(f"{what}, convex, weight {weight}", "generic", ranks(both), plain)
        both = lexical.convex_combination(nnn, found, zero, typical, weights)
        yield _row(f"{what}, hybrid", "generic", ranks(both), plain)
    yield _row("words alone", "–", ranks(found + np.float32(1e-6) * cosines), plain)


# Embeddings ------------------------------------------------------------------------------------


def _read(name: str) -> CaptionedSet:
    folder, _, split = name.partition(":")
    return read_captioned(Path(folder), split or "all")


def _bank(name: str, cache: EmbeddingCache) -> Bank:
    path = Path(name)
    if path.is_file():
        sentences = tuple(filter(None, path.read_text(encoding="utf-8").splitlines()))
    else:
        sentences = _read(name).captions
    return sentences, cache.texts(sentences).rows


def _embed(data: CaptionedSet, cache: EmbeddingCache) -> EmbeddedSet:
    photos, unreadable = cache.photos(data.photos)
    if unreadable:
        raise DataSetError(f"{data.name} has photos that cannot be read; see `benchmark recall`.")
    name = data.name + (f":{data.split}" if data.split != "all" else "")
    owners = np.array(data.owners, np.int64)
    return EmbeddedSet(name, data.captions, photos.rows, cache.texts(data.captions).rows, owners)


if __name__ == "__main__":
    main()
