"""How right the relevance of hits is, on captioned photos that had no part in its fit.

The model is fitted by `retrieval.training.relevance`, which also says how hits are judged. Do not
give it the photos of the fit: that command measures on the other half of theirs itself. Run it as
`retrieval benchmark relevance` or `python -m benchmarks.relevance`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from retrieval.datasets.captioned import CaptionedSet
from retrieval.datasets.embedding_cache import Progress, open_embedding_cache
from retrieval.encoders.registry import load_encoder
from retrieval.errors import ModelError
from retrieval.evaluation.relevance_metrics import draw_diagram
from retrieval.evaluation.relevance_trials import ask, draw_trials
from retrieval.ranking.relevance import load_calibration
from retrieval.training.relevance import (
    QUERIES,
    TEST_SIZES,
    as_text,
    material_of,
    measure,
    sentence_encoder,
)

__all__ = ["as_text", "draw_diagram", "measure_set"]


def measure_set(
    captioned: CaptionedSet,
    model: str = "auto",
    seed: int = 0,
    log: Callable[[str], None] = lambda _: None,
    progress: Progress = lambda *_: None,
) -> dict[str, Any]:
    """Searches of galleries of several sizes, of which half have an answer, as `measure` tells.

    Raises RetrievalError, where no relevance was fitted for the model for instance.
    """
    encoder = load_encoder(model, log)
    calibration = load_calibration(encoder.fingerprint)
    if calibration is None:
        raise ModelError(
            f"Relevance was not fitted for model {encoder.name}. "
            "`python -m retrieval.training.relevance --help` tells how to fit it."
        )
    with open_embedding_cache(encoder, progress) as cache:
        material = material_of(captioned, encoder, cache)
    rows = np.arange(len(material.photos))
    trials = draw_trials(material, rows, rows[:0], TEST_SIZES, QUERIES, seed)
    return measure(calibration, ask(material, trials, encoder.encode_texts, sentence_encoder()))


if __name__ == "__main__":
    from benchmarks.commands import alone

    alone("relevance")
