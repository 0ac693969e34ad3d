"""The vectors on graphics cards, for a process that searches many of them often.

A command that searches once never comes here: to begin with a card costs seconds. The same exact
search as on the CPU; in float16, where asked for, half the memory for the last digits of scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from indexes.native import has_nvidia_driver, load_faiss

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]

LARGE = 200_000  # vectors from which on a card pays
OFTEN = 50  # searches after which it does: copying to the card takes about as long
_MOST_HITS = 2048  # that a card can find for a query
_ROWS = 1 << 18  # copied at a time
_SCRATCH = 256 << 20  # bytes on a card for computing


def cards() -> int:
    """How many cards FAISS can use: none, if this build of it was made without."""
    if not has_nvidia_driver():
        return 0
    faiss = load_faiss()
    return int(faiss.get_num_gpus()) if hasattr(faiss, "StandardGpuResources") else 0


def on_cards(part: Any, half: bool = False) -> Any:
    """An index of `vectors` spread over all cards; as it is where there is none or no room.

    half: keep float16 there.
    """
    count = cards()
    if not count or not part.ntotal:
        return part
    try:
        return CardVectors(part, [_empty(card, part.d, half) for card in range(count)])
    except RuntimeError:  # a card that is full, or of a kind that FAISS was not built for
        return part


def _empty(card: int, dim: int, half: bool) -> Any:
    """An exact inner-product index on one card, without rows."""
    faiss = load_faiss()
    resources = faiss.StandardGpuResources()
    resources.setTempMemory(_SCRATCH)
    settings = faiss.GpuIndexFlatConfig()
    settings.device, settings.useFloat16 = card, half
    return faiss.GpuIndexFlatIP(resources, dim, settings)


class CardVectors:
    """An index of `vectors`, searched by copies of its rows; what they cannot do, it does itself.

    Each copy holds a run of rows. That halves the time on two cards and needs no card to hold all.
    """

    def __init__(self, part: Any, copies: Sequence[Any]) -> None:
        """copies: empty exact FAISS indexes. Raises RuntimeError where rows do not fit in one."""
        faiss = load_faiss()
        self._part, self._copies = part, copies
        self.d, self.ntotal, self.id_map = part.d, part.ntotal, part.id_map
        self._ids: Ids = faiss.vector_to_array(part.id_map)
        flat = faiss.downcast_index(part.index)
        rows = faiss.rev_swig_ptr(flat.get_xb(), self.ntotal * self.d).reshape(-1, self.d)
        share = -(-self.ntotal // len(copies))
        for number, copy in enumerate(copies):
            mine = rows[number * share : (number + 1) * share]
            for start in range(0, len(mine), _ROWS):
                copy.add(mine[start : start + _ROWS])
        self._all = copies[0]
        if len(copies) > 1:
            self._all = faiss.IndexShards(self.d, True, True)  # in threads; ids run on
            for copy in copies:
                self._all.add_shard(copy)

    def search(self, queries: Floats, k: int, params: Any = None) -> tuple[Floats, Ids]:
        """As a FAISS index: scores, float32 [n, k], and ids, int64 [n, k], -1 for nothing.

        Choices of ids, and more hits than a card can find, are for the CPU.
        """
        if params is not None or k > _MOST_HITS:
            scores, ids = self._part.search(queries, k, params=params)
            return scores, ids
        scores, rows = self._all.search(queries, k)
        return scores, np.where(rows < 0, -1, self._ids[rows])
