"""The public functions and `Photos`, an index that is open for searching.

They find the index and call the rooms that do the work. `import retrieval` offers them.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from indexes.arrays import Floats
from indexes.errors import IndexMissingError, RetrievalError
from indexes.index import Index
from indexes.locate import FOLDER_NAME, find, index_at, is_index
from indexes.milvus.place import is_cluster, parse
from retrieval.cluster.options import ClusterOptions
from retrieval.encoders.base import Encoder
from retrieval.encoders.registry import UNCHECKED, check_weights
from retrieval.indexing.options import Options, Progress, Report
from retrieval.indexing.run import index_folders
from retrieval.indexing.status import Status, status
from retrieval.indexing.trust import check_trust, trust_command
from retrieval.photos.files import as_on_disk
from retrieval.query import DEFAULT_KM, AnyPath, Query, Term, as_list, parse_date
from retrieval.ranking.relevance import Level
from retrieval.ranking.reranking import Rerank
from retrieval.search import pipeline
from retrieval.search.encode_query import encode_query
from retrieval.search.hits import Hit
from retrieval.search.options import SearchOptions

if TYPE_CHECKING:
    pass


def index(
    *folders: AnyPath,
    index: AnyPath | None = None,
    model: str | Encoder | None = None,
    options: Options = Options(),
    progress: Callable[[Progress], None] = lambda _: None,
    log: Callable[[str], None] = lambda _: None,
    trust: bool = False,
    cluster: ClusterOptions | None = None,
) -> Report:
    """Index folders of photos, or bring an index up to date with them.

    folders: by default all that the index knows. index: its folder, by default `.retrieval` in the
    first folder; or `milvus://HOST:PORT/NAME`, an index on many machines, of which folders may also
    be URLs, tars and tables, and which `cluster` tells how to index. model: a name, see
    `load_encoder`, or a loaded encoder; by default that of the index. progress: called after every
    batch. log: called with sentences for the user. trust: as for `open`. Raises RetrievalError;
    what was committed until then stays.
    """
    place = index if index is not None else os.environ.get("RETRIEVAL_INDEX")
    if is_cluster(place):
        return _index_cluster(str(place), folders, model, options, cluster, progress, log, trust)
    if cluster is not None and cluster.lake is not None:
        raise RetrievalError(
            "A lake is of an index on many machines: name it with --index milvus://HOST:PORT/NAME."
        )
    paths = [as_on_disk(Path(folder).expanduser()) for folder in folders]
    if index is not None:
        # Without folders the index has to exist; with them it may be a new one.
        named = Path(index).expanduser()
        where = (index_at(named) or named) if paths else find_index(index)
    elif paths:
        where = paths[0] / FOLDER_NAME
        above = find(paths[0].absolute().parent)
        if above is not None and not is_index(where):
            log(
                f"{above} may already hold these photos: `retrieval index` without a folder brings "
                f"it up to date. This run makes a second index, {where}."
            )
    else:
        where = find_index()
    _trust_command(where, paths, model, options, log, trust)
    return index_folders(where, paths, model, options, progress, log)


def _index_cluster(
    place: str,
    sources: Sequence[AnyPath],
    model: str | Encoder | None,
    options: Options,
    cluster: ClusterOptions | None,
    progress: Callable[[Progress], None],
    log: Callable[[str], None],
    trust: bool,
) -> Report:
    from retrieval.cluster.index import index_cluster

    if model is not None and not isinstance(model, str):
        raise RetrievalError(
            "Workers on other machines load the model themselves: name it, instead of passing one."
        )
    named = [os.fspath(source) for source in sources]
    chosen = cluster or ClusterOptions()
    return index_cluster(parse(place), named, model, options, chosen, progress, log, trust)


def _trust_command(
    where: Path,
    folders: Sequence[Path],
    model: str | Encoder | None,
    options: Options,
    log: Callable[[str], None],
    trust: bool,
) -> None:
    """Check the index that there is, then trust what the user names for it.

    Before the run: it may be killed, and the next one continues.
    """
    if is_index(where):
        with Index.open(where) as known:
            check_trust(known, trust)
    if not trust_command(where, [*folders, *(options.captions or ())], model):
        log(
            "It cannot be recorded that this index is trusted: the user's data folder cannot be "
            "written. Add --trust to the commands that use it."
        )


def find_index(where: AnyPath | None = None) -> Path:
    """The folder of an index; raises IndexMissingError.

    where: an index, or a folder of photos that has one. By default RETRIEVAL_INDEX if that is set,
    else the index of the working directory or of the nearest folder above it. For an index on many
    machines, `milvus://HOST:PORT/NAME`, it is that of its mirror, brought up to date.
    """
    named = where if where is not None else os.environ.get("RETRIEVAL_INDEX")
    if is_cluster(named):
        from indexes.milvus.cluster_index import ClusterIndex

        return ClusterIndex.locate_at(parse(str(named)))
    if not named:
        here = Path.cwd()
        found = find(here)
        if found is None:
            raise IndexMissingError(
                f"There is no index in {here} or above it. Make one with `retrieval index FOLDER`, "
                "or name one with --index."
            )
        return found
    index = index_at(Path(named).expanduser())
    if index is None:
        raise IndexMissingError(
            f"There is no index in {named}. Make one with "
            f"`retrieval index FOLDER --index {named}`, naming the folder of your photos."
        )
    return index


def open(
    where: AnyPath | None = None, trust: bool = False, *, encoder: Encoder | None = None
) -> "Photos":
    """Open an index for searching; where: as for `find_index`.

    trust: use it from now on, whatever folders and model it names. encoder: encodes queries in
    place of the model that the index names, which is then not loaded: any object with the
    attributes and methods of `Encoder`. Raises IndexMissingError, IndexDamagedError,
    UntrustedIndexError if the index was not made on this machine, uses a model that is not known or
    folders elsewhere, and has not been trusted before, or ModelError if the encoder is not the one
    that made the index.
    """
    index = Index.open(find_index(where))
    try:
        check_trust(index, trust, model_given=encoder is not None)
        if encoder is not None:
            check_weights(index.model, encoder)
            _check_imported(index, encoder)
    except BaseException:
        index.close()
        raise
    return Photos(index, encoder)


class Photos:
    """Indexed photos, open for searching. Use it as a context manager, or call `close`.

    The first query that needs the encoder loads it; later ones use it again.
    """

    def __init__(self, index: Index, encoder: Encoder | None = None) -> None:
        self._index = index
        self._encoder = encoder

    def search(
        self,
        text: str | Sequence[str] = (),
        *,
        photos: AnyPath | Sequence[AnyPath] = (),
        unwanted: str | Sequence[str] = (),
        unwanted_photos: AnyPath | Sequence[AnyPath] = (),
        k: int = 10,
        within: AnyPath | Sequence[AnyPath] = (),
        after: str | None = None,
        before: str | None = None,
        near: str | tuple[float, float] | None = None,
        near_km: float = DEFAULT_KM,
        place: str | None = None,
        min_score: float | None = None,
        ranking: str = "auto",
        rerank: Rerank = "none",
        relevance: Level = "all",
    ) -> list[Hit]:
        """The `k` photos that fit best, best first.

        text, photos: what to look for; unwanted, unwanted_photos: what not; within: folders to
        search in; each takes one or several. after, before: dates such as '2024-05' (`after` is
        included, `before` is not); near: a place, by its name or as (latitude, longitude), and
        near_km: how far around it; place: a city, region or country; min_score: the lowest cosine;
        ranking, rerank, relevance: see
        `SearchOptions`. For terms with weights use `ask`. Raises QueryError, ModelError or
        PhotoError.
        """
        terms = (
            *(Term("text", t) for t in as_list(text)),
            *(Term("photo", p) for p in as_list(photos)),
            *(Term("text", t, wanted=False) for t in as_list(unwanted)),
            *(Term("photo", p, wanted=False) for p in as_list(unwanted_photos)),
        )
        query = Query(
            terms,
            within=tuple(map(Path, as_list(within))),
            after=parse_date(after, "after") if after else None,
            before=parse_date(before, "before") if before else None,
            min_score=min_score,
            near=near if near is None or isinstance(near, str) else f"{near[0]},{near[1]}",
            near_km=near_km,
            place=place,
        )
        return self.ask(query, SearchOptions(k, ranking, rerank, relevance))

    def ask(self, query: Query, options: SearchOptions = SearchOptions()) -> list[Hit]:
        """The photos that fit a `Query` best: terms with weights, and filters.

        Raises QueryError, ModelError or PhotoError; TypeError for arguments of other types.
        """
        if not isinstance(query, Query):
            raise TypeError(f"ask takes a Query, not {query!r}. For plain words use search.")
        if not isinstance(options, SearchOptions):
            raise TypeError(
                f"The options of ask are SearchOptions, as in SearchOptions(k=3), not {options!r}."
            )
        return pipeline.search(self._index, query, options, self._need_encoder)

    def similar(self, photo: AnyPath, k: int = 10) -> list[Hit]:
        """The `k` photos that look most like one, which need not be indexed. It is left out."""
        return pipeline.similar(self._index, os.fspath(photo), k, self._need_encoder)

    def captions(self, hit: Hit) -> tuple[str, ...]:
        """The captions of a photo that was found."""
        catalogue = self._index.catalogue
        of_hash = catalogue.photos.ids
        found = self._index.read(
            lambda: catalogue.captions.of_photos(list(of_hash([hit.photo.hash]).values()))
        )
        return next(iter(found.values()), ())

    def embed(self, query: Query) -> Floats:
        """The vector of a query, float32 [dim], of length one."""
        return encode_query(self._index, query.terms, self._need_encoder).vector

    def status(self, look: bool = True) -> Status:
        """What is indexed and, with `look`, how the files on disk differ from it."""
        return status(self._index, look)

    def _need_encoder(self) -> Encoder:
        if self._encoder is None:
            from retrieval.encoders.registry import load_encoder_of

            encoder = load_encoder_of(self._index.model)
            _check_imported(self._index, encoder)
            self._encoder = encoder
        return self._encoder

    def close(self) -> None:
        self._index.close()

    def __enter__(self) -> "Photos":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _check_imported(index: Index, encoder: Encoder) -> None:
    """Compare an encoder with the embeddings of an index that was imported without it."""
    if index.model.fingerprint == UNCHECKED:
        from retrieval.indexing.imported import check_imported

        check_imported(index, encoder)
