"""Index on many machines: photos into the lake by Ray's workers, then vectors into Milvus.

It puts the steps together: `run` brings the lake up to date, captions that changed without their
photos are embedded here, and the collection is loaded with what it lacks.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from indexes.errors import RetrievalError
from indexes.lake.location import Location
from indexes.lake.manifest import latest_version
from indexes.milvus.place import ClusterPlace
from indexes.paths import as_path
from retrieval.cluster.options import ClusterOptions
from retrieval.cluster.sources import find_source
from retrieval.encoders.base import Log
from retrieval.indexing.encoder_loader import EncoderLoader
from retrieval.indexing.options import Options, Progress, Report
from retrieval.indexing.trust import check_trust, trust_command

if TYPE_CHECKING:
    from indexes.milvus.cluster_index import ClusterIndex


def index_cluster(
    place: ClusterPlace,
    sources: Sequence[str] = (),
    model: str | None = None,
    options: Options = Options(),
    cluster: ClusterOptions = ClusterOptions(),
    progress: Callable[[Progress], None] = lambda _: None,
    log: Log = lambda _: None,
    trust: bool = False,
) -> Report:
    """Bring the index at a place up to date with sources, or with all that it knows.

    sources: folders, URLs, tars and tables; model, trust: as for an index in a folder. Raises
    RetrievalError; what was committed before stays.
    """
    from indexes.milvus.cluster_index import ClusterIndex
    from indexes.milvus.mirrors import mirror_folder, read_mirror
    from retrieval.cluster.run import index_lake

    if options.prune:
        raise RetrievalError(
            "--prune is for an index in a folder. `retrieval remove PATH --index INDEX` forgets "
            "photos in Milvus."
        )
    for name, value in (("--rebuild", options.rebuild), ("--reread", options.reread)):
        if value:
            raise RetrievalError(
                f"{name} is for an index in a folder. To encode all photos again, name a new lake "
                "with --lake and a new collection with --index."
            )
    if options.vectors is not None:
        raise RetrievalError(
            "--vectors is for an index in a folder. Choose the kind in Milvus with --milvus-index."
        )
    lake = Location.of(cluster.lake or place.lake).url if cluster.lake or place.lake else ""
    if not lake:
        lake = read_mirror(ClusterIndex.locate_at(place)).lake
    place, mirror = replace(place, lake=lake), mirror_folder(place, lake)
    folders = [Path(name).expanduser() for name in sources if "://" not in name]
    if not trust_command(mirror, [*folders, *(options.captions or ())], model):
        log(
            "It cannot be recorded that this index is trusted: the user's data folder cannot be "
            "written. Add --trust to the commands that use it."
        )
    if latest_version(Location(lake)):
        with ClusterIndex.open(ClusterIndex.locate_at(place)) as index:
            check_trust(index, trust)
            sources = sources or _remembered(index)
    report = index_lake(lake, mirror, sources, model, options, cluster, progress, log)
    with ClusterIndex.open(ClusterIndex.locate_at(place), writable=True) as index:
        loader = EncoderLoader(index.model, model, options.compute, log)
        fused = _finish(index, loader, cluster, progress)
    return replace(report, fused=fused)


def _remembered(index: "ClusterIndex") -> list[str]:
    """The sources of earlier runs, as far as they are among the folders that are trusted."""
    roots = {str(root.path) for root in index.roots()}
    named = index.catalogue.setting("sources", "").split("\n")
    return [name for name in named if name and str(as_path(find_source(name).root)) in roots]


def _finish(
    index: "ClusterIndex",
    loader: EncoderLoader,
    cluster: ClusterOptions,
    progress: Callable[[Progress], None],
) -> int:
    """Embed captions that changed, and load vectors; returns how many photos were fused."""
    from retrieval.cluster.captions import embed_changed
    from retrieval.fusion.store import load_fusion
    from retrieval.ranking.hub_bias import prepare_ranking
    from retrieval.ranking.vector_plan import vector_plan

    fusion = load_fusion(index.model.fingerprint, index.model.dim)
    fused = embed_changed(
        index, loader, fusion, lambda done, total: progress(Progress(done, total, 0, "captions"))
    )
    plan = vector_plan(
        index, loader, lambda done, total: progress(Progress(done, total, 0, "vectors"))
    )
    index.load_vectors(plan, cluster.kind, cluster.rebuild_vectors)
    if loader.loaded is not None:
        prepare_ranking(index, loader.loaded)
    return fused
