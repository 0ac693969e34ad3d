"""An index of made photos: embeddings near those of real photos, of files that do not exist.

Each row is the embedding of a photo plus a part of the difference between two others, which spreads
rows as photos are spread. They are written through the catalogue, in batches, as `retrieval index`
writes photos. Rows of similar photos lie in a folder of their own, as in people's collections.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from indexes.arrays import Bools, Floats, Ints
from indexes.catalogue import IndexModel
from indexes.files import File
from indexes.index import Index
from indexes.locate import FOLDER_NAME
from indexes.lock import lock
from indexes.photos import Photo
from retrieval.encoders.base import Encoder
from retrieval.fusion.attention import MEAN

BLOCK = 1 << 14
_JITTER = 0.3
_TAKEN = "2024-05-01T12:00:00"
# Folders by the share of all photos that they hold. The smaller one lies inside the larger one.
FOLDERS = {0.1: "similar", 0.01: "similar/most"}


@dataclass(frozen=True)
class MadeRows:
    """Rows that can be made again, block by block.

    base: embeddings of real photos, float32 [n, dim]; count: how many rows; seed: of the choice.
    """

    base: Floats
    count: int
    seed: int

    @property
    def dim(self) -> int:
        return int(self.base.shape[1])

    def blocks(self) -> Iterator[tuple[Ints, Floats, Ints]]:
        """Ids from 1 on, int64 [m]; unit rows, float32 [m, dim]; and the photos that they are near
        to, int64 [m]."""
        n = len(self.base)
        for start in range(0, self.count, BLOCK):
            random = np.random.default_rng([self.seed, start])
            i, j, k = random.integers(n, size=(3, BLOCK))
            k = np.where(j == k, (k + 1) % n, k)  # no row stays unchanged
            some = self.base[i] + np.float32(_JITTER) * (self.base[j] - self.base[k])
            some /= np.linalg.norm(some, axis=1, keepdims=True)
            size = min(BLOCK, self.count - start)
            yield np.arange(start, start + size) + 1, some[:size], i[:size]

    def is_similar(self, share: float) -> Bools:
        """Which of the photos in `base` are in the folder of this share, bool [n].

        They are the photos most similar to one of them.
        """
        order = np.argsort(-(self.base @ self.base[self.seed % len(self.base)]), kind="stable")
        chosen = np.zeros(len(self.base), np.bool_)
        chosen[order[: max(1, round(share * len(self.base)))]] = True
        return chosen


def write_index(folder: Path, rows: MadeRows, encoder: Encoder) -> Path:
    """Write an index of the rows inside `folder`, without vectors; gives its folder.

    Photo number N is the file `N.jpg`, and has the id N.
    """
    place = folder / FOLDER_NAME
    model = IndexModel(encoder.name, encoder.fingerprint, encoder.dim, MEAN)
    similar = {path: rows.is_similar(share) for share, path in FOLDERS.items()}
    with lock(place):
        Index.create(place, model).close()
        with Index.open(place, writable=True) as index:
            root, _ = index.add_root(folder)
            for numbers, some, near in rows.blocks():
                below = np.full(len(near), "others", dtype=object)
                for path, chosen in similar.items():
                    below[chosen[near]] = path
                with index.catalogue.transaction():
                    photos = [Photo(f"{n:064x}", 640, 480, "JPEG", _TAKEN) for n in numbers]
                    ids = index.catalogue.add_photos(photos, some)
                    files = [
                        File(f"{path}/{n}.jpg", 100_000, 1, photo_id)
                        for n, path, photo_id in zip(numbers, below, ids, strict=True)
                    ]
                    index.catalogue.files.put(root.id, files)
    return place


def number_of(path: Path) -> int:
    """The number of a made photo, which is its id."""
    return int(path.stem)
