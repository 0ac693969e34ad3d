"""The vectors on GPUs, for a process that searches many of them often.

A command that searches once never comes here: starting a GPU takes seconds. The search is exact, as
on the CPU; float16, if asked for, needs half the memory and changes the last digits of scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from indexes.arrays import Floats, Ints
from indexes.lazy_imports import has_nvidia_driver, load_faiss
from indexes.vectors import Part

# Copying to the GPU takes about as long as this many searches of this many vectors.
MIN_ROWS = 200_000
MIN_SEARCHES = 50
_MOST_HITS = 2048  # the most that FAISS finds on a GPU for a query
_COPY_ROWS = 1 << 18  # copied at a time
_SCRATCH_BYTES = 256 << 20  # of a GPU's memory, for computing


def count() -> int:
    """How many GPUs FAISS can use: none, if it was built without them."""
    if not has_nvidia_driver():
        return 0
    faiss = load_faiss()
    return int(faiss.get_num_gpus()) if hasattr(faiss, "StandardGpuResources") else 0


@dataclass(frozen=True)
class GpuPart(Part):
    """Rows with copies on GPUs. What the GPUs cannot do, the CPU does with the rows.

    copies: a FAISS index of the rows by their positions.
    """

    copies: Any

    def nearest(
        self, query: Floats, k: int, allowed: Ints | None, excluded: Ints | None
    ) -> tuple[Ints, Floats]:
        """As `Part.nearest`, without rows beyond the best k.

        The CPU searches if ids are limited, or for more hits than FAISS finds on a GPU.
        """
        if allowed is not None or (excluded is not None and excluded.size) or k > _MOST_HITS:
            return super().nearest(query, k, allowed, excluded)
        scores, positions = self.copies.search(query[None], min(k, len(self)))
        found = positions[0] >= 0
        return positions[0][found], scores[0][found]


def to_gpus(part: Part, half: bool = False) -> Part:
    """The part with copies on all GPUs; unchanged if there is none, or no room.

    half: store float16 on the GPUs.
    """
    gpus = count()
    if not gpus or not len(part):
        return part
    try:
        return copied(part, [_empty(gpu, part.rows.shape[1], half) for gpu in range(gpus)])
    except RuntimeError:  # a GPU that is full, or of a kind that FAISS was not built for
        return part


def copied(part: Part, copies: Sequence[Any]) -> GpuPart:
    """The part with its rows spread over empty exact FAISS indexes, a range of rows in each.

    Two GPUs halve the time of a search, and none has to hold all rows. Raises RuntimeError if the
    rows do not fit.
    """
    share = -(-len(part) // len(copies))
    for number, copy in enumerate(copies):
        rows = part.rows[number * share : (number + 1) * share]
        for start in range(0, len(rows), _COPY_ROWS):
            copy.add(np.array(rows[start : start + _COPY_ROWS]))  # FAISS needs aligned rows
    if len(copies) == 1:
        return GpuPart(part.ids, part.rows, copies[0])
    shards = load_faiss().IndexShards(part.rows.shape[1], True, True)  # threads; positions run on
    for copy in copies:
        shards.add_shard(copy)
    return GpuPart(part.ids, part.rows, shards)


def _empty(gpu: int, dim: int, half: bool) -> Any:
    """An exact inner-product index without rows on one GPU."""
    faiss = load_faiss()
    resources = faiss.StandardGpuResources()
    resources.setTempMemory(_SCRATCH_BYTES)
    settings = faiss.GpuIndexFlatConfig()
    settings.device, settings.useFloat16 = gpu, half
    return faiss.GpuIndexFlatIP(resources, dim, settings)
