"""Load a lake into Milvus: what is not there yet, or all again.

The biases of the default ranking are computed on the way. Nothing is encoded but, once for each
model, the bank of queries that measures them.
"""

from collections.abc import Callable

from indexes.errors import ClusterError
from indexes.index import Index
from indexes.milvus.cluster_index import ClusterIndex
from indexes.milvus.collection import KINDS
from indexes.milvus.place import parse
from retrieval.encoders.base import Encoder
from retrieval.encoders.registry import load_encoder_of
from retrieval.ranking.vector_plan import vector_plan


def load_vectors(
    place: str,
    kind: str | None = None,
    again: bool = False,
    encoder: Encoder | None = None,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> int:
    """Bring Milvus in line with the lake; returns how many photos were written or deleted.

    place: `milvus://HOST:PORT/NAME`, with `?lake=URL` for a collection that is new or lost; kind:
    FLAT, HNSW, IVF_SQ8, DISKANN or GPU_CAGRA, by default FLAT up to 100,000 photos, then HNSW;
    again: make the collection again; encoder: of the lake's model, loaded if it is needed;
    progress: called with how many photos are loaded, and of how many. Raises RetrievalError.
    """
    if kind is not None and kind not in KINDS:
        raise ClusterError(f"{kind} is not a kind of index in Milvus: {', '.join(KINDS)}.")
    folder = ClusterIndex.locate_at(parse(place))
    with ClusterIndex.open(folder, writable=True) as index:
        plan = vector_plan(index, _encoder_of(index, encoder), progress)
        return index.load_vectors(plan, kind, again)


def _encoder_of(index: Index, encoder: Encoder | None) -> Callable[[], Encoder]:
    return lambda: encoder if encoder is not None else load_encoder_of(index.model)
