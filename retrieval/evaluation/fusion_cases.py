"""The cases that a fusion is measured on: captions that are right, partly swapped, or missing.

One caption of each photo is stored with it, the others are the queries. Training stops early by
these cases, and `retrieval benchmark fusion` reports them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from indexes.arrays import Bools, Floats, Ints
from retrieval.evaluation.fusion_data import CaptionedEmbeddings
from retrieval.fusion.attention import Fusion, normalise

SWAPPED, MISSING = 0.3, 0.5
CASES = ("clean", "swapped_30", "missing_50")
ALPHAS = tuple(round(0.05 * i, 2) for i in range(21))
"""The fixed weights of the photo that are tried."""


@dataclass(frozen=True)
class FusionCase:
    """Photos with a stored caption each, and the queries. images, stored: float32 [n, dim];
    has_caption: bool [n]; queries: float32 [q, dim]; owners: int64 [q], the photo of each query."""

    images: Floats
    stored: Floats
    has_caption: Bools
    queries: Floats
    owners: Ints

    def fixed(self, alpha: float) -> Floats:
        """Fuse with one weight for all photos: normalise(α I + (1 - α) T), float32 [n, dim]."""
        fused = normalise(alpha * self.images + (1 - alpha) * self.stored)
        return np.where(self.has_caption[:, None], fused, self.images)

    def caption_only(self) -> Floats:
        """The captions alone, zeros for photos without one, float32 [n, dim]."""
        return np.where(self.has_caption[:, None], self.stored, np.float32(0))

    def attention(self, fusion: Fusion) -> Floats:
        """Fuse with a trained fusion, float32 [n, dim]."""
        fused, _ = fusion.photos(self.images, self.stored)
        return np.where(self.has_caption[:, None], fused, self.images)


def make_case(name: str, captioned: CaptionedEmbeddings, seed: int) -> FusionCase:
    """Draw the stored captions of a case: 'clean'; 'swapped_30' (30% of the photos carry the
    caption of another one of them); 'missing_50' (every second photo has none).

    Raises ValueError for another name.
    """
    random = np.random.default_rng(seed)
    count = np.diff(captioned.offsets)
    total = len(count)
    stored = captioned.offsets[:-1] + random.integers(0, count)
    is_query = np.ones(len(captioned.captions), np.bool_)
    is_query[stored] = False
    owners = np.repeat(np.arange(total), count)[is_query]
    has_caption = np.ones(total, np.bool_)
    if name == "swapped_30":
        swapped = random.permutation(total)[: round(SWAPPED * total)]
        stored[swapped] = stored[np.roll(swapped, 1)]
    elif name == "missing_50":
        has_caption[random.permutation(total)[: round(MISSING * total)]] = False
    elif name != "clean":
        raise ValueError(f"there is no case {name}")
    captions = captioned.captions
    return FusionCase(captioned.images, captions[stored], has_caption, captions[is_query], owners)


def recall_at(k: int, queries: Floats, gallery: Floats, owners: Ints) -> float:
    """Recall@k in percent, ties counted against the model.

    A fast version for decisions during training; results are measured with `metrics`.
    """
    found = 0
    for start in range(0, len(queries), 2000):
        part = slice(start, start + 2000)
        scores = queries[part] @ gallery.T
        right = np.take_along_axis(scores, owners[part, None], 1)
        found += int(((scores >= right).sum(1) <= k).sum())
    return 100 * found / len(queries)


def best_alpha(cases: Sequence[FusionCase]) -> float:
    """The fixed weight of the photo with the highest mean R@1 over these cases."""
    recalls = [
        np.mean([recall_at(1, case.queries, case.fixed(alpha), case.owners) for case in cases])
        for alpha in ALPHAS
    ]
    return ALPHAS[int(np.argmax(recalls))]
