"""Fitting the relevance of hits (`retrieval.ranking.relevance`) to a model, on captioned photos.

    python -m retrieval.training.relevance FLICKR8K --model mini --also COCO --plot diagram.png \\
        --out retrieval/weights/mini/relevance.json

fits on half of a split, and prints the calibration error on the other half and on data sets that
had no part in the fit. Run it again whenever a model's weights change. FLICKR8K and COCO may have
any format of `retrieval benchmark recall`. The first run takes about ten minutes on two cores,
nearly all of it for the embeddings, which are cached. Without --out the fit is written where
`retrieval` looks for the user's own. Measuring alone is `retrieval benchmark relevance`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from indexes.arrays import Ints
from retrieval.datasets.captioned import CaptionedSet, read_captioned
from retrieval.datasets.embedding_cache import open_embedding_cache
from retrieval.encoders.registry import load_encoder
from retrieval.evaluation.relevance import (
    QUERIES,
    TEST_SIZES,
    as_json,
    as_text,
    embed_relevance_data,
    measure_calibration,
    sentence_encoder,
)
from retrieval.evaluation.relevance_metrics import draw_diagram
from retrieval.evaluation.relevance_trials import (
    RelevanceData,
    TrialHits,
    draw_trials,
    run_trials,
)
from retrieval.output.terminal import hide_library_warnings, print_message
from retrieval.ranking.relevance import (
    WEAK,
    Calibration,
    background,
    save_calibration,
    user_calibration_file,
)

FIT_SIZES = (20, 50, 150, 250, 1000, 3000)
"""Galleries to fit on. Those larger than half of the photos are filled up with other photos."""


def fit(hits: TrialHits, fingerprint: str, about: dict[str, Any]) -> Calibration:
    """The logistic model with the highest likelihood, by Newton's method; outcomes are estimated.

    Features are the score above the background, log of the gallery's size and log of the query's
    words. fingerprint: of the model; about: is stored with the result.
    """
    usual = round(float(hits.mean[hits.rank == 0].mean()), 6)
    above = hits.score - background(hits.mean, hits.size, usual)
    x = np.stack([np.ones(len(above)), above, np.log(hits.size), np.log(hits.words)], axis=1)
    w = np.zeros(x.shape[1])
    for _ in range(50):
        p = 0.5 * (1 + np.tanh(0.5 * (x @ w)))
        gradient = x.T @ (p - hits.match)
        hessian = (x * (p * (1 - p))[:, None]).T @ x + 1e-6 * np.eye(len(w))
        step = np.linalg.solve(hessian, gradient)
        w = w - step
        if np.abs(step).max() < 1e-9:
            break
    bias, score, size, words = (round(float(v), 6) for v in w)
    return Calibration(fingerprint, bias, score, size, words, usual, about)


def halves(
    captioned: CaptionedSet, fill: CaptionedSet, seed: int
) -> tuple[CaptionedSet, list[tuple[Ints, Ints]]]:
    """Divide photos into a half to fit on and a half to measure on; no photo is in both.

    Returns all photos as one set, and for each half the rows of photos that may be searched for,
    and of those that only fill galleries.
    """
    random = np.random.default_rng(seed)
    targets = np.array_split(random.permutation(len(captioned.photos)), 2)
    fillers = np.array_split(random.permutation(len(fill.photos)) + len(captioned.photos), 2)
    both = replace(captioned, photos=captioned.photos + fill.photos)
    return both, list(zip(targets, fillers, strict=True))


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit, measure, write and print, by the command line's arguments."""
    parser = argparse.ArgumentParser(description="Fit the relevance of hits to a model.")
    parser.add_argument("data", type=Path, help="captioned photos")
    parser.add_argument("--split", default="val", help="photos that the model was not trained on")
    parser.add_argument("--fill", default="train", help="split that fills large galleries")
    parser.add_argument(
        "--also", type=Path, action="append", default=[], help="another data set to measure on"
    )
    parser.add_argument("--model", default="mini")
    parser.add_argument("--out", type=Path, help="default: the file that searches use")
    parser.add_argument("--plot", type=Path, help="write the reliability diagram to this file")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--skip-bad", action="store_true", help="skip photos and captions that cannot be used"
    )
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    hide_library_warnings()

    encoder, sentences = load_encoder(chosen.model), sentence_encoder()
    captioned, (for_fit, for_test) = halves(
        read_captioned(chosen.data, chosen.split, None, chosen.skip_bad, print_message),
        read_captioned(chosen.data, chosen.fill, None, chosen.skip_bad, print_message),
        chosen.seed,
    )
    with open_embedding_cache(encoder, lambda *_: None) as cache:
        data = embed_relevance_data(captioned, encoder, cache, chosen.skip_bad, print_message)
        others = {
            folder.name: embed_relevance_data(
                read_captioned(folder, "all", None, chosen.skip_bad, print_message),
                encoder,
                cache,
                chosen.skip_bad,
                print_message,
            )
            for folder in chosen.also
        }

    def search(
        data: RelevanceData, targets: Ints, fillers: Ints, sizes: Sequence[int], seed: int
    ) -> TrialHits:
        trials = draw_trials(data, targets, fillers, sizes, QUERIES, seed)
        return run_trials(data, trials, encoder.encode_texts, sentences)

    fit_hits = search(data, *for_fit, FIT_SIZES, chosen.seed)
    about = {
        "data": chosen.data.name,
        "photos": len(for_fit[0]),
        "searches": len(np.unique(fit_hits.query)),
    }
    calibration = fit(fit_hits, encoder.fingerprint, {"model": encoder.name, **about})
    hits = {f"{chosen.data.name}, other half": search(data, *for_test, TEST_SIZES, chosen.seed + 1)}
    for name, other in others.items():
        rows = np.arange(len(other.photos))
        hits[name] = search(other, rows, rows[:0], TEST_SIZES, chosen.seed)
    measured = {name: measure_calibration(calibration, found) for name, found in hits.items()}
    file = chosen.out or user_calibration_file(encoder.fingerprint)
    save_calibration(calibration, file)
    if chosen.plot:
        draw_diagram(chosen.plot, {name: m["all hits"] for name, m in measured.items()})
    if chosen.json:
        print(json.dumps({"fit": calibration, "measured": measured}, indent=2, default=as_json))
        return
    print(
        f"{calibration}\nWritten to {file}. Below {WEAK} a search says that no photo matches well."
    )
    for name, values in measured.items():
        print(f"\n{name}\n{as_text(values)}")


if __name__ == "__main__":
    main()
