"""How right the relevance of hits is, on captioned photos that had no part in its fit.

`retrieval.training.relevance` fits it, and measures on the other half of the photos of the fit; do
not use those photos here. `retrieval.evaluation.relevance_trials` says how hits are judged. Run it
as `retrieval benchmark relevance` or `python -m benchmarks.relevance`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from retrieval.datasets.captioned import CaptionedSet
from retrieval.datasets.embedding_cache import Progress, open_embedding_cache
from retrieval.encoders.registry import load_encoder
from retrieval.errors import ModelError
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
from retrieval.evaluation.relevance_trials import draw_trials, run_trials
from retrieval.ranking.relevance import load_calibration

__all__ = ["as_json", "as_text", "draw_diagram", "measure_set"]


def measure_set(
    captioned: CaptionedSet,
    model: str = "auto",
    seed: int = 0,
    skip_bad: bool = False,
    log: Callable[[str], None] = lambda _: None,
    progress: Progress = lambda *_: None,
) -> dict[str, Any]:
    """Search galleries of several sizes, half of the queries with a match in the gallery.

    skip_bad: leave out photos that cannot be read. Returns the results of `measure_calibration`.
    Raises RetrievalError, for instance if relevance was not fitted to the model.
    """
    encoder = load_encoder(model, log)
    calibration = load_calibration(encoder.fingerprint)
    if calibration is None:
        raise ModelError(
            f"Relevance was not fitted to model {encoder.name}. To fit it, see "
            "`python -m retrieval.training.relevance --help`."
        )
    with open_embedding_cache(encoder, progress) as cache:
        data = embed_relevance_data(captioned, encoder, cache, skip_bad, log)
    rows = np.arange(len(data.photos))
    trials = draw_trials(data, rows, rows[:0], TEST_SIZES, QUERIES, seed)
    hits = run_trials(data, trials, encoder.encode_texts, sentence_encoder())
    return measure_calibration(calibration, hits)


if __name__ == "__main__":
    from benchmarks.commands import alone

    alone("relevance")
