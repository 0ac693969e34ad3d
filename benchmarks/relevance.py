"""How right the relevance of hits is, on captioned photos that had no part in its fit.

Run it as `python -m benchmarks.relevance FOLDER [--split val] [--model mini] [--plot FILE]`. The
model is fitted by `retrieval.training.relevance`, which also says how hits are judged. Do not give
it the photos of the fit: that command measures on the other half of theirs itself.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from indexes.errors import ModelError
from retrieval.captioned import read_captioned
from retrieval.models import load_encoder
from retrieval.relevance import load_calibration
from retrieval.training.relevance import (
    QUERIES,
    TEST_SIZES,
    as_text,
    embed,
    measure,
    sentence_encoder,
)
from retrieval.training.relevance_measures import draw_diagram
from retrieval.training.relevance_trials import ask, draw_trials


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="images/ and captions.jsonl")
    parser.add_argument("--split", default="all")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--plot", type=Path, help="write the reliability diagram")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()

    encoder = load_encoder(chosen.model)
    calibration = load_calibration(encoder.fingerprint)
    if calibration is None:
        raise ModelError(
            f"Relevance was not fitted for model {encoder.name}. "
            "`python -m retrieval.training.relevance --help` tells how to fit it."
        )
    material = embed(read_captioned(chosen.folder, chosen.split), encoder, cache=None)
    rows = np.arange(len(material.photos))
    trials = draw_trials(material, rows, rows[:0], TEST_SIZES, QUERIES, chosen.seed)
    measured = measure(calibration, ask(material, trials, encoder.encode_texts, sentence_encoder()))
    if chosen.plot:
        draw_diagram(
            chosen.plot,
            {"all hits": measured["all hits"], "first hits": measured["first hits"]},
        )
    print(json.dumps(measured, indent=2, default=vars) if chosen.json else as_text(measured))


if __name__ == "__main__":
    main()
