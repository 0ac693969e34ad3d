"""What the vectors of an index are written with: biases, and queries that choose their setting.

The biases are those that `retrieval.ranking.hub_bias` reads later; the queries are texts, as those
of users: the generic ones of the bank, and captions of the index.
"""

from collections.abc import Callable

import numpy as np

from indexes.arrays import Floats
from indexes.index import Index
from indexes.vectors.build import OnProgress, Plan
from retrieval.encoders.base import Encoder
from retrieval.ranking.hub_bias import vector_biases
from retrieval.ranking.query_bank import bank_embeddings, load_bank

_QUERIES = 400  # half choose the setting, half measure it


def vector_plan(
    index: Index, encoder: Callable[[], Encoder] | None, progress: OnProgress = lambda *_: None
) -> Plan:
    """A plan for the vectors of an index as it is now.

    encoder: encodes the bank of queries if its embeddings are not stored; without one there are no
    biases then, and photos of the index stand in for queries.
    """
    model = index.model
    bank = load_bank(model.fingerprint, model.dim)
    if bank is None and encoder is not None:
        bank = bank_embeddings(encoder())
    captions = index.catalogue.embeddings.captions(model.dim, _QUERIES)
    queries = _sample(bank, captions)
    biases, ordering = vector_biases(index, bank)
    if len(queries) < 2:
        return Plan(biases, ordering, _photos(index), "photos", progress)
    return Plan(biases, ordering, queries, "texts", progress)


def _sample(bank: Floats | None, captions: Floats) -> Floats:
    """Up to 400 rows, from each side in turn, so that every other one is of either."""
    sides = [rows for rows in (bank, captions) if rows is not None and len(rows)]
    if not sides:
        return captions
    random = np.random.default_rng(0)
    share = _QUERIES // len(sides)
    chosen = np.concatenate([rows[random.permutation(len(rows))[:share]] for rows in sides])
    return chosen[random.permutation(len(chosen))]


def _photos(index: Index) -> Floats:
    """Embeddings of some photos, moved a little: one that is in the index is found too easily."""
    rows = index.sample(_QUERIES)
    moved = rows + 0.5 * np.roll(rows, 1, axis=0)
    length = np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1e-9)
    result: Floats = (moved / length).astype(np.float32)
    return result
