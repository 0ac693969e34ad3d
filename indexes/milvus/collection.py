"""One collection of Milvus: created, written, searched, with limited retries.

A row is a photo: its id, its vector with the bias as one more dimension (as in
`indexes.vectors.approximate`), and numbers for filters (`indexes.milvus.filters`). What is loaded
into it, and what a search means, is decided elsewhere.
"""

import json
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

import numpy as np

from indexes.arrays import Floats, Ints
from indexes.errors import ClusterError
from indexes.milvus.place import ClusterPlace

if TYPE_CHECKING:
    from pymilvus import MilvusClient

Kind = Literal["FLAT", "HNSW", "IVF_SQ8", "DISKANN", "GPU_CAGRA"]
KINDS: tuple[Kind, ...] = get_args(Kind)
EXACT_KINDS = ("FLAT", "HNSW", "GPU_CAGRA")
"""Those whose scores are exact, whatever they find."""
MOST_HITS = 16_384
"""As many as Milvus gives for one query."""
FOLDERS, PLACES = 64, 8
"""How many folders and names of places a photo has at most."""
_BATCH = 1_000  # vectors that are asked for by id
_TRIES, _FIRST_WAIT = 7, 0.5  # seconds, doubled each time
_SECONDS = 60.0  # for one request
_CONNECT_TRIES, _CONNECT_SECONDS = 3, 5.0
_LISTS, _LISTS_READ = 4096, 64  # of IVF_SQ8
_BUILD: dict[Kind, dict[str, Any]] = {
    "FLAT": {},
    "HNSW": {"M": 24, "efConstruction": 300},
    "IVF_SQ8": {"nlist": _LISTS},
    "DISKANN": {},
    "GPU_CAGRA": {"intermediate_graph_degree": 64, "graph_degree": 32},
}
_LOWEST = -1e4
"""No inner product is lower."""
_ABOUT = "retrieval.about"  # a property of the collection
Result = TypeVar("Result")


@dataclass(frozen=True)
class About:
    """What a collection says about itself.

    token: of this collection and no other; lake: the URL of its lake; dim: of embeddings; kind: of
    its index.
    """

    token: str
    lake: str
    dim: int
    kind: Kind


class Collection:
    """A collection, which need not exist yet. It connects when it is first used.

    The first read, and the first after `expect_changes`, waits until the server shows all that was
    written before, which takes a fifth of a second. Later reads may be a few seconds behind.
    """

    def __init__(self, place: ClusterPlace) -> None:
        self.place = place
        self._waits = True

    def expect_changes(self) -> None:
        """Have the next read see all that was written until then."""
        self._waits = True

    @contextmanager
    def _consistency(self) -> Iterator[str]:
        yield "Strong" if self._waits else "Bounded"
        self._waits = False

    @cached_property
    def _client(self) -> "MilvusClient":
        try:
            from pymilvus import MilvusClient
        except ImportError as error:
            raise ClusterError(
                "An index in Milvus needs `pip install 'crossmodal-retrieval[cluster]'`."
            ) from error

        # It reports every attempt that fails; what remains of that is raised.
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL + 1)
        token = os.environ.get("MILVUS_TOKEN", "")
        return self._call(
            lambda: MilvusClient(uri=self.place.address, token=token, timeout=_CONNECT_SECONDS),
            tries=_CONNECT_TRIES,
        )

    def close(self) -> None:
        if "_client" in self.__dict__:
            self._client.close()
            del self.__dict__["_client"]

    def _call(self, work: Callable[[], Result], tries: int = _TRIES) -> Result:
        """What `work` returns; a server that does not answer is asked a few times more."""
        from pymilvus.exceptions import MilvusException

        wait = _FIRST_WAIT
        for attempt in range(tries):
            try:
                return work()
            except (MilvusException, ConnectionError, TimeoutError, ValueError) as error:
                message = str(getattr(error, "message", error)).strip()
                if attempt == tries - 1 or not _is_passing(message):
                    raise ClusterError(
                        f"Milvus at {self.place.address} does not do what it is asked "
                        f"({message.splitlines()[-1][-300:] if message else error!r}). "
                        "Check that it runs, and that MILVUS_TOKEN is right if it needs one."
                    ) from error
            time.sleep(wait)
            wait *= 2
            if "not loaded" in message and "_client" in self.__dict__:
                # As after a crash. What goes wrong here goes wrong in the next attempt.
                with suppress(MilvusException):
                    self._client.load_collection(self.place.name, timeout=_SECONDS)
        raise AssertionError

    # The collection as a whole -----------------------------------------------------------------

    def about(self) -> About | None:
        """What the collection is; None if there is none. Raises ClusterError if it is not ours."""
        name = self.place.name
        if not self._call(lambda: self._client.has_collection(name)):
            return None
        found = self._call(lambda: self._client.describe_collection(name))
        text = found.get("properties", {}).get(_ABOUT, "") or found.get("description", "")
        try:
            about = json.loads(text)
            token, lake, dim, kind = (about[key] for key in ("token", "lake", "dim", "kind"))
            texts = isinstance(token, str) and isinstance(lake, str) and token.isalnum()
            if texts and type(dim) is int and kind in KINDS:
                return About(token, lake, dim, kind)
        except (ValueError, KeyError, TypeError, RecursionError):
            pass
        raise ClusterError(
            f"The collection {name} of {self.place.address} is not an index of retrieval. Choose "
            "another name with --index milvus://HOST:PORT/NAME."
        )

    def create(self, lake: str, dim: int, kind: Kind) -> About:
        """An empty collection; one of this name is replaced."""
        from pymilvus import DataType

        client, name = self._client, self.place.name
        about = About(secrets.token_hex(8), lake, dim, kind)
        schema = client.create_schema(auto_id=False, description=json.dumps(about.__dict__))
        schema.add_field("id", DataType.INT64, is_primary=True)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dim + 1)
        schema.add_field("bias", DataType.FLOAT)
        schema.add_field("taken", DataType.INT64)
        schema.add_field("camera", DataType.INT64)
        schema.add_field("latitude", DataType.DOUBLE)
        schema.add_field("longitude", DataType.DOUBLE)
        for field, most in (("places", PLACES), ("folders", FOLDERS)):
            schema.add_field(field, DataType.ARRAY, element_type=DataType.INT64, max_capacity=most)
        self.drop()
        self._call(
            lambda: client.create_collection(name, schema=schema, consistency_level="Strong")
        )
        self._make_index(kind)
        return about

    def _make_index(self, kind: Kind) -> None:
        client, name = self._client, self.place.name
        params = client.prepare_index_params()
        params.add_index("vector", index_type=kind, metric_type="IP", params=_BUILD[kind])
        self._call(lambda: client.create_index(name, params))
        self._call(lambda: client.load_collection(name))

    def set_kind(self, about: About, kind: Kind) -> About:
        """Build an index of another kind over what is in the collection."""
        client, name = self._client, self.place.name
        self._call(lambda: client.release_collection(name))
        self._call(lambda: client.drop_index(name, "vector"))
        changed = About(about.token, about.lake, about.dim, kind)
        properties = {_ABOUT: json.dumps(changed.__dict__)}
        self._call(lambda: client.alter_collection_properties(name, properties))
        self._make_index(kind)
        return changed

    def drop(self) -> None:
        """Delete the collection, if it is there."""
        self._call(lambda: self._client.drop_collection(self.place.name))

    # Rows --------------------------------------------------------------------------------------

    def upsert(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write rows, or replace those of the same ids: repeats do no harm."""
        if rows:
            some = [dict(row) for row in rows]
            self._call(lambda: self._client.upsert(self.place.name, some))

    def delete(self, ids: Sequence[int]) -> None:
        """Delete the rows of these ids, as far as they are there."""
        for start in range(0, len(ids), _BATCH):
            some = [int(i) for i in ids[start : start + _BATCH]]
            self._call(lambda some=some: self._client.delete(self.place.name, ids=some))  # type: ignore[misc]

    def flush(self) -> None:
        """Have the server write all to its storage, and build indexes from there."""
        self._call(lambda: self._client.flush(self.place.name, timeout=600))

    def wait_built(self, seconds: float = 7200.0) -> None:
        """Wait until the index is built over all that was flushed; raises ClusterError."""
        deadline = time.monotonic() + seconds
        while True:
            found = self._call(lambda: self._client.describe_index(self.place.name, "vector"))
            if int(found.get("pending_index_rows", 0)) == 0 and found.get("state") == "Finished":
                return
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"Milvus at {self.place.address} has not built its index in {seconds:.0f} s. "
                    "See its log; what was loaded is kept."
                )
            time.sleep(0.5)

    def count(self) -> int:
        """How many rows there are."""
        found = self._call(
            lambda: self._client.query(self.place.name, filter="", output_fields=["count(*)"])
        )
        return int(found[0]["count(*)"])

    def values(self, ids: Sequence[int], field: str) -> dict[int, Any]:
        """A field of those of the rows that there are, by id; vectors as float32 [dim + 1]."""
        found: dict[int, Any] = {}
        for start in range(0, len(ids), _BATCH):
            some = [int(i) for i in ids[start : start + _BATCH]]
            with self._consistency() as level:
                rows = self._call(
                    lambda some=some, level=level: self._client.query(  # type: ignore[misc]
                        self.place.name, ids=some, output_fields=[field], consistency_level=level
                    )
                )
            found.update((int(row["id"]), row[field]) for row in rows)
        if field == "vector":
            return {i: np.asarray(row, np.float32) for i, row in found.items()}
        return found

    def search(
        self, queries: Floats, limit: int, kind: Kind, condition: str = "", share: float = 1.0
    ) -> list[tuple[Ints, Floats, Floats]]:
        """For each query, float32 [m, dim + 1]: ids, inner products and biases, best first.

        share: of the photos that the condition lets through, about.
        """
        limit = min(limit, MOST_HITS)
        params = _search_params(kind, limit, share)
        with self._consistency() as level:
            answers = self._call(
                lambda: self._client.search(
                    self.place.name,
                    list(queries),
                    filter=condition,
                    limit=limit,
                    output_fields=["bias"],
                    search_params={"metric_type": "IP", "params": params},
                    consistency_level=level,
                )
            )
        return [
            (
                np.array([hit["id"] for hit in hits], np.int64),
                np.array([hit["distance"] for hit in hits], np.float32),
                np.array([hit["entity"]["bias"] for hit in hits], np.float32),
            )
            for hits in answers
        ]


def _search_params(kind: Kind, limit: int, share: float) -> dict[str, Any]:
    """How much a search looks at, for so many hits.

    Segments that have no index yet, or are too small for one, get one of inverted lists in the
    memory of the server, of which a search reads an eighth. A search within a radius reads all.
    """
    if kind == "FLAT":
        return {"radius": _LOWEST}
    if kind == "HNSW":
        return {"ef": min(max(3 * limit, 200), 2 * MOST_HITS)}
    if kind == "IVF_SQ8":
        # The photos of a folder may lie in any lists; few of them need all lists.
        return {"nprobe": min(_LISTS, int(_LISTS_READ / max(share, 1e-6)))}
    if kind == "DISKANN":
        return {"search_list": min(max(2 * limit, 100), 65_535)}
    if kind == "GPU_CAGRA":
        return {"itopk_size": max(128, -(-limit // 32) * 32)}
    return {}


def _is_passing(message: str) -> bool:
    """Whether an error may be gone in a moment: a server that starts again, or is too busy."""
    words = (
        "connect", "unavailable", "timeout", "deadline", "not ready", "not loaded", "recover",
        "rate limit", "no available", "channel", "node offline", "not found in", "loading",
    )  # fmt: skip
    return any(word in message.lower() for word in words)
