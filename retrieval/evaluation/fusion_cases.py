"""What a fusion is put to: captioned photos whose captions are right, wrong for some, or missing.

One caption of each photo is stored with it, the others are the queries. Training stops early by
these cases, and `retrieval benchmark fusion` reports them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from indexes.arrays import Bools, Floats, Ints
from retrieval.errors import DataSetError
from retrieval.fusion.attention import Fusion, normalise

SWAPPED, MISSING = 0.3, 0.5
CASES = ("clean", "swapped_30", "missing_50")
ALPHAS = tuple(round(0.05 * i, 2) for i in range(21))
"""The weights of the photo among which the best fixed one is looked for."""


@dataclass(frozen=True)
class Captioned:
    """Embeddings of photos, float32 [n, dim], and of all their captions, float32 [m, dim], photo
    after photo; those of photo i are captions[first[i] : first[i + 1]], first: int64 [n + 1]."""

    images: Floats
    captions: Floats
    first: Ints

    @classmethod
    def of(cls, images: Floats, captions: Floats, owners: Sequence[int]) -> "Captioned":
        """The photos with two captions or more: one to store and one to ask."""
        count = np.bincount(np.asarray(owners, np.int64), minlength=len(images))
        enough = count >= 2
        if enough.sum() < 2:
            raise DataSetError(
                "Fusion needs photos with two captions or more: one is stored with the photo, the "
                "others are what is asked. This set has none."
            )
        kept = enough[np.asarray(owners, np.int64)]
        return cls(images[enough], captions[kept], np.cumsum([0, *count[enough]]).astype(np.int64))


@dataclass(frozen=True)
class Asked:
    """Composed queries: positions in the images, int64 [n] each, and embeddings of the texts."""

    examples: Ints
    targets: Ints
    texts: Floats


@dataclass(frozen=True)
class Material:
    """What is learned from, or measured on."""

    captioned: Captioned
    images: Floats
    """Of all photos, which `composed` counts by, float32 [n, dim]."""
    composed: Asked


@dataclass(frozen=True)
class Case:
    """Photos with what is stored of them, and the queries. images, stored: float32 [n, dim];
    has: bool [n], whether something is stored; queries: float32 [q, dim]; owners: int64 [q]."""

    images: Floats
    stored: Floats
    has: Bools
    queries: Floats
    owners: Ints

    def fixed(self, alpha: float) -> Floats:
        """The photos by one weight for all: normalise(α I + (1 - α) T), float32 [n, dim]."""
        fused = normalise(alpha * self.images + (1 - alpha) * self.stored)
        return np.where(self.has[:, None], fused, self.images)

    def caption_only(self) -> Floats:
        """The captions alone, zeros where there is none, float32 [n, dim]."""
        return np.where(self.has[:, None], self.stored, np.float32(0))

    def attention(self, fusion: Fusion) -> Floats:
        """The photos by a fusion, float32 [n, dim]."""
        fused, _ = fusion.photos(self.images, self.stored)
        return np.where(self.has[:, None], fused, self.images)


def make_case(name: str, captioned: Captioned, seed: int) -> Case:
    """'clean'; 'swapped_30': 30 of 100 photos carry the caption of another one of them;
    'missing_50': every second one has none."""
    random = np.random.default_rng(seed)
    count = np.diff(captioned.first)
    total = len(count)
    stored = captioned.first[:-1] + random.integers(0, count)
    asked = np.ones(len(captioned.captions), np.bool_)
    asked[stored] = False
    owners = np.repeat(np.arange(total), count)[asked]
    has = np.ones(total, np.bool_)
    if name == "swapped_30":
        some = random.permutation(total)[: round(SWAPPED * total)]
        stored[some] = stored[np.roll(some, 1)]
    elif name == "missing_50":
        has[random.permutation(total)[: round(MISSING * total)]] = False
    elif name != "clean":
        raise ValueError(f"there is no case {name}")
    rows = captioned.captions
    return Case(captioned.images, rows[stored], has, rows[asked], owners)


def recall_at(k: int, queries: Floats, gallery: Floats, owners: Ints) -> float:
    """In percent, ties counted against; a quick one, for choices while training."""
    right = 0
    for start in range(0, len(queries), 2000):
        part = slice(start, start + 2000)
        scores = queries[part] @ gallery.T
        own = np.take_along_axis(scores, owners[part, None], 1)
        right += int(((scores >= own).sum(1) <= k).sum())
    return 100 * right / len(queries)


def best_alpha(cases: Sequence[Case]) -> float:
    """The fixed weight of the photo with the highest mean R@1 over these cases."""
    found = [
        np.mean([recall_at(1, c.queries, c.fixed(alpha), c.owners) for c in cases])
        for alpha in ALPHAS
    ]
    return ALPHAS[int(np.argmax(found))]
