"""Find photos by describing them: text, example photos or both, on your own machine.

    import retrieval

    retrieval.index("photos")                              # makes photos/.retrieval
    with retrieval.open("photos") as photos:
        for hit in photos.search("a dog on the beach", unwanted=["people"], k=5):
            print(f"{hit.score:.3f}  {hit.path}")

This is the whole public surface; the command line uses the same functions.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

# Where each public name comes from. They are imported when they are first used, so that
# `retrieval --help` need not wait for numpy and Pillow.
_PUBLIC = {
    "indexes.errors": "IndexBusyError IndexDamagedError IndexMissingError IndexReplacedError "
    "RetrievalError StorageError",
    "retrieval.api": "Photos index open",
    "retrieval.encoders.engine": "Compute",
    "retrieval.encoders.registry": "load_encoder",
    "retrieval.errors": "DataSetError ModelError PhotoError QueryError",
    "retrieval.indexing.options": "Options Progress Report",
    "retrieval.indexing.status": "Status",
    "retrieval.query": "Query Term",
    "retrieval.search.hits": "Hit",
}
_MODULE_OF = {name: module for module, names in _PUBLIC.items() for name in names.split()}

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


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'retrieval' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULE_OF[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted((*globals(), *__all__))
