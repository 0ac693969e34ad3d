"""Find photos by describing them: text, example photos or both, on your own machine.

    import retrieval

    retrieval.index("photos")                              # makes photos/.retrieval
    with retrieval.open("photos") as photos:
        for hit in photos.search("a dog on the beach", unwanted=["people"], k=5):
            print(f"{hit.score:.3f}  {hit.path}")

This is the whole public surface: the command line uses these names and no others.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from indexes.check.report import CheckReport, Problem
    from indexes.errors import (
        FullTextError,
        IndexBusyError,
        IndexChangedError,
        IndexDamagedError,
        IndexMissingError,
        IndexReplacedError,
        IndexWarning,
        RetrievalError,
        StorageError,
    )
    from retrieval.api import Photos, find_index, index, open
    from retrieval.client import Client
    from retrieval.cluster.options import ClusterOptions, WorkerSize
    from retrieval.demo import copy_demo_photos, run_demo
    from retrieval.embeddings import export, import_embeddings
    from retrieval.encoders.base import Encoder
    from retrieval.encoders.engine import Compute
    from retrieval.encoders.registry import load_encoder
    from retrieval.errors import (
        DataSetError,
        ModelError,
        PhotoError,
        QueryError,
        QueryWarning,
        UntrustedIndexError,
    )
    from retrieval.indexing.options import Options, Progress, Report
    from retrieval.indexing.status import Status
    from retrieval.manage import FuseReport, check, delete_index, fuse, remove
    from retrieval.output.gallery import GallerySection, write_gallery
    from retrieval.query import Query, Term, parse_date, parse_terms
    from retrieval.search.hits import Explanation, Hit, filter_by_relevance
    from retrieval.search.options import SearchOptions
    from retrieval.server.mcp_server import run_mcp
    from retrieval.server.options import ServeOptions
    from retrieval.server.run import Address, serve, serving
    from retrieval.training.config import Recipe, parse_recipe
    from retrieval.training.fusion_run import TrainedFusion, train_fusion
    from retrieval.training.mini import TrainedModel, train
    from retrieval.training.options import FusionTrainOptions, TrainOptions
    from retrieval.transfer.export import ExportReport
    from retrieval.transfer.importing import ImportReport

__version__ = "0.2.0"

# Where each public name comes from. They are imported when they are first used, so
# `retrieval --help` does not wait for numpy and Pillow.
_PUBLIC = {
    "indexes.check.report": "CheckReport Problem",
    "indexes.errors": "FullTextError IndexBusyError IndexChangedError IndexDamagedError "
    "IndexMissingError IndexReplacedError IndexWarning RetrievalError StorageError",
    "retrieval.api": "Photos find_index index open",
    "retrieval.client": "Client",
    "retrieval.cluster.options": "ClusterOptions WorkerSize",
    "retrieval.manage": "FuseReport check delete_index fuse remove",
    "retrieval.demo": "copy_demo_photos run_demo",
    "retrieval.embeddings": "export import_embeddings",
    "retrieval.encoders.base": "Encoder",
    "retrieval.encoders.engine": "Compute",
    "retrieval.encoders.registry": "load_encoder",
    "retrieval.errors": "DataSetError ModelError PhotoError QueryError QueryWarning "
    "UntrustedIndexError",
    "retrieval.indexing.options": "Options Progress Report",
    "retrieval.indexing.status": "Status",
    "retrieval.output.gallery": "GallerySection write_gallery",
    "retrieval.query": "Query Term parse_date parse_terms",
    "retrieval.search.hits": "Explanation Hit filter_by_relevance",
    "retrieval.search.options": "SearchOptions",
    "retrieval.transfer.export": "ExportReport",
    "retrieval.transfer.importing": "ImportReport",
    "retrieval.server.mcp_server": "run_mcp",
    "retrieval.server.options": "ServeOptions",
    "retrieval.server.run": "Address serve serving",
    "retrieval.training.config": "Recipe parse_recipe",
    "retrieval.training.fusion_run": "TrainedFusion train_fusion",
    "retrieval.training.mini": "TrainedModel train",
    "retrieval.training.options": "FusionTrainOptions TrainOptions",
}
_MODULE_OF = {name: module for module, names in _PUBLIC.items() for name in names.split()}

__all__ = [
    "Address",
    "CheckReport",
    "Client",
    "ClusterOptions",
    "Compute",
    "DataSetError",
    "Encoder",
    "Explanation",
    "ExportReport",
    "FullTextError",
    "FuseReport",
    "FusionTrainOptions",
    "GallerySection",
    "Hit",
    "ImportReport",
    "IndexBusyError",
    "IndexChangedError",
    "IndexDamagedError",
    "IndexMissingError",
    "IndexReplacedError",
    "IndexWarning",
    "ModelError",
    "Options",
    "PhotoError",
    "Photos",
    "Problem",
    "Progress",
    "Query",
    "QueryError",
    "QueryWarning",
    "Recipe",
    "Report",
    "RetrievalError",
    "SearchOptions",
    "ServeOptions",
    "Status",
    "StorageError",
    "Term",
    "TrainOptions",
    "TrainedFusion",
    "TrainedModel",
    "UntrustedIndexError",
    "WorkerSize",
    "check",
    "copy_demo_photos",
    "delete_index",
    "export",
    "filter_by_relevance",
    "find_index",
    "fuse",
    "import_embeddings",
    "index",
    "load_encoder",
    "open",
    "parse_date",
    "parse_recipe",
    "parse_terms",
    "remove",
    "run_demo",
    "run_mcp",
    "serve",
    "serving",
    "train",
    "train_fusion",
    "write_gallery",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'retrieval' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULE_OF[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted((*globals(), *__all__))
