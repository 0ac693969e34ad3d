"""Who encodes which photo: copies of a photo may be in many tasks at once, one encodes it.

It knows the photos of the lake and those that this run was given out. No photo is read here.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from indexes.arrays import Ints
from indexes.lake.schema import photo_id


class Claims:
    """The photos that have a task. known: the ids of those in the lake, int64 [n]."""

    def __init__(self, known: Ints) -> None:
        self._known = np.sort(np.asarray(known, np.int64))
        self._taken: dict[int, str] = {}

    def claim(self, task: str, hashes: Sequence[str]) -> list[bool]:
        """Whether the task `task` is to encode each of these photos.

        A task that is tried again gets the same answer.
        """
        ids = [photo_id(digest) for digest in hashes]
        found = self._in_lake(ids)
        return [
            not is_known and self._taken.setdefault(i, task) == task
            for i, is_known in zip(ids, found, strict=True)
        ]

    def _in_lake(self, ids: Iterable[int]) -> list[bool]:
        wanted = np.fromiter(ids, np.int64)
        if not len(self._known):
            return [False] * len(wanted)
        places = np.minimum(np.searchsorted(self._known, wanted), len(self._known) - 1)
        found: list[bool] = (self._known[places] == wanted).tolist()
        return found
