"""Find photos by describing them: text, example photos or both, on your own machine.

    import retrieval

    retrieval.index("photos")                              # makes photos/.retrieval
    with retrieval.open("photos") as photos:
        for hit in photos.search("a dog on the beach", unwanted=["people"], k=5):
            print(f"{hit.score:.3f}  {hit.path}")

This is the whole public surface; the command line uses the same functions.
"""

from indexes.errors import (
    IndexBusyError,
    IndexDamagedError,
    IndexMissingError,
    IndexReplacedError,
    RetrievalError,
    StorageError,
)
from retrieval.api import Photos, index, open
from retrieval.encoders.engine import Compute
from retrieval.encoders.registry import load_encoder
from retrieval.errors import DataSetError, ModelError, PhotoError, QueryError
from retrieval.indexing.options import Options, Progress, Report
from retrieval.indexing.status import Status
from retrieval.query import Query, Term
from retrieval.search.hits import Hit

__version__ = "0.1.0"

__all__ = [
    "Compute",
    "DataSetError",
    "Hit",
    "IndexBusyError",
    "IndexDamagedError",
    "IndexMissingError",
    "IndexReplacedError",
    "ModelError",
    "Options",
    "PhotoError",
    "Photos",
    "Progress",
    "Query",
    "QueryError",
    "Report",
    "RetrievalError",
    "Status",
    "StorageError",
    "Term",
    "index",
    "load_encoder",
    "open",
]
