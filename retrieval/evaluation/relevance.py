"""How right the relevance of hits is: a calibration measured on searches with a known outcome.

`relevance_trials` makes the searches, `relevance_metrics` has the measures. Fitting a calibration
is training (`retrieval.training.relevance`).
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from indexes.arrays import Bools, Doubles
from retrieval.datasets.captioned import CaptionedSet
from retrieval.datasets.embedding_cache import EmbeddingCache, drop_unreadable
from retrieval.encoders.base import Encoder
from retrieval.encoders.mini.encoder import MiniEncoder
from retrieval.encoders.mini.model_folder import WEIGHTS
from retrieval.evaluation.relevance_metrics import Reliability, auc, reliability
from retrieval.evaluation.relevance_trials import KINDS, Encode, RelevanceData, TrialHits
from retrieval.ranking.hubness import nnn_bias
from retrieval.ranking.query_bank import bank_embeddings
from retrieval.ranking.relevance import Calibration

TEST_SIZES = (20, 75, 150, 250, 1000, 3000)
"""Galleries to measure on. Sizes beyond the number of photos are left out."""
QUERIES = 900  # for each size of gallery
_CUT_TITLES = {
    "matches kept": "matches kept",
    "others left out": "others left out",
    "described photos kept": "described photos kept",
    "no match said rightly": "no match, correct",
    "no match said wrongly": "no match, wrong",
}
"""The titles of the columns of `as_text`, by the keys of the JSON."""
_LEVELS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.5)


def embed_relevance_data(
    captioned: CaptionedSet,
    encoder: Encoder,
    cache: EmbeddingCache,
    skip_bad: bool = False,
    log: Callable[[str], None] = lambda _: None,
) -> RelevanceData:
    """Embed a captioned set for trials.

    skip_bad: leave out photos that cannot be read, instead of raising DataSetError.
    """
    photos, unreadable = cache.photos(captioned.photos)
    readable = drop_unreadable(captioned, unreadable, skip_bad, log)
    bias = nnn_bias(photos.rows, bank_embeddings(encoder))
    return RelevanceData(photos.rows, bias, tuple(photo.captions for photo in readable.photos))


def sentence_encoder() -> Encode:
    """Texts to MiniLM sentence embeddings, by which captions are compared."""
    return MiniEncoder(WEIGHTS).encode_sentences


def measure_calibration(calibration: Calibration, hits: TrialHits) -> dict[str, Any]:
    """Measure a calibration on all hits, first hits, each kind of query and each gallery size.

    answerable_auc: how often the best hit of an answerable query has a higher relevance than the
    best hit of a query without a match; described photo only: calibration error if only the photo
    that a caption was written for counted as a match, for comparison.
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
        "cuts": [_cut(level, p, hits) for level in _LEVELS],
    }


def _cut(level: float, p: Doubles, hits: TrialHits) -> dict[str, float]:
    """The effect of leaving out hits below `level`, and of reporting no match if none is left."""
    shown, first = p >= level, hits.rank == 0
    with_match, without = first & hits.answerable, first & ~hits.answerable
    return {
        "level": level,
        "matches kept": float(hits.match[shown].sum() / hits.match.sum()),
        "others left out": float((1 - hits.match)[~shown].sum() / (1 - hits.match).sum()),
        "described photos kept": float(shown[hits.described].mean()),
        "no match said rightly": float((~shown)[without].mean()),
        "no match said wrongly": float((~shown)[with_match].mean()),
    }


def as_json(value: Any) -> Any:
    """What `json.dumps` calls for the parts of a result that are not plain values."""
    return value.to_json() if isinstance(value, Reliability) else vars(value)


def as_text(measured: dict[str, Any]) -> str:
    """The results of `measure_calibration` as a table."""
    lines = [
        f"{'':<22}{'hits':>7}{'queries':>9}   {'ECE [95%]':<20}"
        f"    {'Brier':>7}{'mean p':>7}{'matches':>9}"
    ]
    for name, r in measured.items():
        if isinstance(r, Reliability):
            lines.append(
                f"{name:<22}{r.hits:>7}{r.queries:>9}   {r.ece:.3f} [{r.low:.3f}, {r.high:.3f}]"
                f"    {r.brier:>7.3f}{r.mean_probability:>7.3f}{r.mean_match:>9.3f}"
            )
    lines.append(
        f"a match above another hit: AUC {measured['auc']:.3f}; best hit with a match above best "
        "hit without:"
    )
    lines += [f"  {kind}: AUC {value:.3f}" for kind, value in measured["answerable_auc"].items()]
    lines.append("level" + "".join(f"{title:>23}" for title in _CUT_TITLES.values()))
    for cut in measured["cuts"]:
        shares = (cut[name] for name in _CUT_TITLES)
        lines.append(f"{cut['level']:<5}" + "".join(f"{100 * v:>22.1f}%" for v in shares))
    return "\n".join(lines)
