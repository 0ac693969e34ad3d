"""Fitting `retrieval.ranking.relevance` to a model, on half of a split of captioned photos.

    python -m retrieval.training.relevance FLICKR8K --model mini --also COCO --plot diagram.png \\
        --out retrieval/weights/mini/relevance.json

prints the calibration error on the other half, and on data sets that had no part in the fit. Run it
again whenever a model's weights change. FLICKR8K and COCO are of any format of `retrieval benchmark
recall`. From nothing it takes about ten minutes on two cores, nearly all of it for the embeddings,
which are cache. Without --out the fit goes where `retrieval` looks for the user's own.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from indexes.arrays import Bools, Doubles, Ints
from retrieval.datasets.captioned import CaptionedSet, read_captioned
from retrieval.datasets.embedding_cache import EmbeddingCache, drop_unreadable, open_embedding_cache
from retrieval.encoders.base import Encoder
from retrieval.encoders.mini.encoder import WEIGHTS, MiniEncoder
from retrieval.encoders.registry import load_encoder
from retrieval.evaluation.relevance_metrics import Reliability, auc, draw_diagram, reliability
from retrieval.evaluation.relevance_trials import KINDS, Encode, Hits, Material, ask, draw_trials
from retrieval.ranking.hubness import nnn_bias
from retrieval.ranking.query_bank import bank_embeddings
from retrieval.ranking.relevance import (
    WEAK,
    Calibration,
    background,
    save_calibration,
    user_calibration_file,
)

FIT_SIZES = (20, 50, 150, 250, 1000, 3000)
"""Galleries for the fit; those beyond half of the photos are filled up with other photos."""
TEST_SIZES = (20, 75, 150, 250, 1000, 3000)
QUERIES = 900  # for each size of gallery


def fit(hits: Hits, fingerprint: str, about: dict[str, Any]) -> Calibration:
    """The logistic model of highest likelihood, by Newton's method, with estimated outcomes."""
    usual = round(float(hits.mean[hits.rank == 0].mean()), 6)
    above = hits.score - background(hits.mean, hits.size, usual)
    x = np.stack([np.ones(len(above)), above, np.log(hits.size), np.log(hits.words)], axis=1)
    w = np.zeros(x.shape[1])
    for _ in range(50):
        p = 0.5 * (1 + np.tanh(0.5 * (x @ w)))
        slope = x.T @ (p - hits.match)
        curve = (x * (p * (1 - p))[:, None]).T @ x + 1e-6 * np.eye(len(w))
        step = np.linalg.solve(curve, slope)
        w = w - step
        if np.abs(step).max() < 1e-9:
            break
    bias, score, size, words = (round(float(v), 6) for v in w)
    return Calibration(fingerprint, bias, score, size, words, usual, about)


def measure(calibration: Calibration, hits: Hits) -> dict[str, Any]:
    """How right a calibration is: for all hits, first hits, each kind of query, each size.

    answerable_auc: how often the best hit of an answerable query has the higher relevance than
    that of one that nothing answers; described_ece: as if only the very photo that a caption was
    written for matched it, for comparison.
    """
    p = calibration.probability(hits.score, hits.mean, hits.size, hits.size, hits.words)
    first = hits.rank == 0

    def part(chosen: Bools, outcome: Doubles = hits.match) -> Reliability:
        return reliability(p[chosen], outcome[chosen], hits.query[chosen])

    captions = hits.kind == "caption"
    strict = np.where(captions, hits.described, hits.match).astype(np.float64)
    return {
        "all hits": part(np.ones_like(first)),
        "first hits": part(first),
        **{f"kind: {kind}": part(hits.kind == kind) for kind in KINDS if (hits.kind == kind).any()},
        **{f"{n} photos": part(hits.size == n) for n in np.unique(hits.size)},
        **({"described photo only": part(captions, strict)} if captions.any() else {}),
        "auc": auc(p, hits.match),
        "answerable_auc": {
            kind: auc(p[chosen], hits.answerable[chosen].astype(np.float64))
            for kind in KINDS
            if (chosen := first & (hits.kind == kind)).any()
        },
        "cuts": [_cut(level, p, hits) for level in (0.05, 0.1, 0.15, 0.2, 0.3, 0.5)],
    }


def _cut(level: float, p: Doubles, hits: Hits) -> dict[str, float]:
    """What leaving out every hit below `level` would do, and calling a best below it 'no match'."""
    shown, first = p >= level, hits.rank == 0
    there, vain = first & hits.answerable, first & ~hits.answerable
    return {
        "level": level,
        "matches kept": float(hits.match[shown].sum() / hits.match.sum()),
        "others left out": float((1 - hits.match)[~shown].sum() / (1 - hits.match).sum()),
        "described photos kept": float(shown[hits.described].mean()),
        "no match said rightly": float((~shown)[vain].mean()),
        "no match said wrongly": float((~shown)[there].mean()),
    }


def as_text(measured: dict[str, Any]) -> str:
    """The figures as a table."""
    lines = [f"{'':<22}{'hits':>7}{'queries':>9}   ECE [95 %]              Brier   says  matches"]
    for name, r in measured.items():
        if isinstance(r, Reliability):
            lines.append(
                f"{name:<22}{r.hits:>7}{r.queries:>9}   {r.ece:.3f} [{r.low:.3f}, {r.high:.3f}]"
                f"    {r.brier:>7.3f}{r.mean_probability:>7.3f}{r.mean_match:>9.3f}"
            )
    lines.append(f"a match above another hit: AUC {measured['auc']:.3f}; answerable above vain:")
    lines += [f"  {kind}: AUC {value:.3f}" for kind, value in measured["answerable_auc"].items()]
    lines.append(
        "level" + "".join(f"{name:>23}" for name in measured["cuts"][0] if name != "level")
    )
    for cut in measured["cuts"]:
        shares = (value for name, value in cut.items() if name != "level")
        lines.append(f"{cut['level']:<5}" + "".join(f"{100 * v:>22.1f}%" for v in shares))
    return "\n".join(lines)


def sentence_encoder() -> Encode:
    """Texts to MiniLM sentence vectors, by which near captions are known."""
    return MiniEncoder(WEIGHTS).encode_sentences


def material_of(captioned: CaptionedSet, encoder: Encoder, cache: EmbeddingCache) -> Material:
    """A captioned set as what is searched; raises DataSetError for a photo that cannot be read."""
    photos, wrong = cache.photos(captioned.photos)
    used = drop_unreadable(captioned, wrong, False, print)
    bias = nnn_bias(photos.rows, bank_embeddings(encoder))
    return Material(photos.rows, bias, tuple(photo.captions for photo in used.photos))


def halves(
    captioned: CaptionedSet, fill: CaptionedSet, seed: int
) -> tuple[CaptionedSet, list[tuple[Ints, Ints]]]:
    """One set of all photos, and for each half (rows to ask for, rows that only fill galleries).

    No photo is in both halves.
    """
    chance = np.random.default_rng(seed)
    own = np.array_split(chance.permutation(len(captioned.photos)), 2)
    rest = np.array_split(chance.permutation(len(fill.photos)) + len(captioned.photos), 2)
    both = replace(captioned, photos=captioned.photos + fill.photos)
    return both, list(zip(own, rest, strict=True))


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit, measure, write and print, from the command line's arguments."""
    parser = argparse.ArgumentParser(description="Fit the relevance of hits for a model.")
    parser.add_argument("data", type=Path, help="images/ and captions.jsonl")
    parser.add_argument("--split", default="val", help="photos the model did not learn from")
    parser.add_argument("--fill", default="train", help="split that fills large galleries")
    parser.add_argument("--also", type=Path, action="append", default=[], help="measure here too")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--out", type=Path, help="default: where the user's own fits are kept")
    parser.add_argument("--plot", type=Path, help="write the reliability diagram")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)

    encoder, sentences = load_encoder(chosen.model), sentence_encoder()
    captioned, (for_fit, for_test) = halves(
        read_captioned(chosen.data, chosen.split),
        read_captioned(chosen.data, chosen.fill),
        chosen.seed,
    )

    with open_embedding_cache(encoder, lambda *_: None) as cache:
        material = material_of(captioned, encoder, cache)
        others = {
            folder.name: material_of(read_captioned(folder, "all"), encoder, cache)
            for folder in chosen.also
        }
    trials = draw_trials(material, *for_fit, FIT_SIZES, QUERIES, chosen.seed)
    about = {"data": chosen.data.name, "photos": len(for_fit[0]), "searches": len(trials)}
    calibration = fit(
        ask(material, trials, encoder.encode_texts, sentences),
        encoder.fingerprint,
        {"model": encoder.name, **about},
    )
    trials = draw_trials(material, *for_test, TEST_SIZES, QUERIES, chosen.seed + 1)
    hits = {
        f"{chosen.data.name}, other half": ask(material, trials, encoder.encode_texts, sentences)
    }
    for name, other in others.items():
        rows = np.arange(len(other.photos))
        trials = draw_trials(other, rows, rows[:0], TEST_SIZES, QUERIES, chosen.seed)
        hits[name] = ask(other, trials, encoder.encode_texts, sentences)
    measured = {name: measure(calibration, found) for name, found in hits.items()}
    file = chosen.out or user_calibration_file(encoder.fingerprint)
    save_calibration(calibration, file)
    if chosen.plot:
        draw_diagram(chosen.plot, {name: m["all hits"] for name, m in measured.items()})
    if chosen.json:
        print(json.dumps({"fit": calibration, "measured": measured}, indent=2, default=vars))
        return
    print(f"{calibration}\nwritten to {file}; 'no photo matches well' below {WEAK}")
    for name, values in measured.items():
        print(f"\n{name}\n{as_text(values)}")


if __name__ == "__main__":
    main()
