"""The vectors on graphics cards, for a process that searches many of them often.

A command that searches once never comes here: to begin with a card costs seconds. The same exact
search as on the CPU; in float16, where asked for, half the memory for the last digits of scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from indexes.arrays import Floats, Ints
from indexes.lazy_imports import has_nvidia_driver, load_faiss
from indexes.vectors import Part

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


@dataclass(frozen=True)
class GpuPart(Part):
    """Rows with copies on cards, which are searched; what those cannot do is done by the rows.

    copies: a FAISS index of the rows, by their numbers.
    """

    copies: Any

    def nearest(
        self, query: Floats, k: int, allowed: Ints | None, excluded_ids: Ints | None
    ) -> tuple[Ints, Floats]:
        """As of any part; choices of ids, and more hits than a card can find, are for the CPU."""
        if (
            allowed is not None
            or (excluded_ids is not None and excluded_ids.size)
            or k > _MOST_HITS
        ):
            return super().nearest(query, k, allowed, excluded_ids)
        scores, rows = self.copies.search(query[None], min(k, len(self)))
        found = rows[0] >= 0
        return self.ids[rows[0][found]], scores[0][found]


def to_gpus(part: Part, half: bool = False) -> Part:
    """The same part with copies on all cards; as it is where there is none or no room.

    half: keep float16 there.
    """
    count = cards()
    if not count or not len(part):
        return part
    try:
        return copied(part, [_empty(card, part.rows.shape[1], half) for card in range(count)])
    except RuntimeError:  # a card that is full, or of a kind that FAISS was not built for
        return part


def copied(part: Part, copies: Sequence[Any]) -> GpuPart:
    """A part with a run of its rows in each of some empty exact FAISS indexes.

    That halves the time on two cards and needs no card to hold all. Raises RuntimeError where rows
    do not fit.
    """
    share = -(-len(part) // len(copies))
    for number, copy in enumerate(copies):
        mine = part.rows[number * share : (number + 1) * share]
        for start in range(0, len(mine), _ROWS):
            copy.add(np.array(mine[start : start + _ROWS]))  # in place, which a mapped file is not
    if len(copies) == 1:
        return GpuPart(part.ids, part.rows, copies[0])
    together = load_faiss().IndexShards(part.rows.shape[1], True, True)  # in threads; ids run on
    for copy in copies:
        together.add_shard(copy)
    return GpuPart(part.ids, part.rows, together)


def _empty(card: int, dim: int, half: bool) -> Any:
    """An exact inner-product index on one card, without rows."""
    faiss = load_faiss()
    resources = faiss.StandardGpuResources()
    resources.setTempMemory(_SCRATCH)
    settings = faiss.GpuIndexFlatConfig()
    settings.device, settings.useFloat16 = card, half
    return faiss.GpuIndexFlatIP(resources, dim, settings)
