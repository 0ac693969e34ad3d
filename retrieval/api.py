"""The public functions: index a folder, open an index, ask it. `import retrieval` offers them.

Everything here is short: it finds the index and hands over to the journeys.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from indexes.arrays import Floats
from indexes.errors import IndexMissingError
from indexes.index import Index
from indexes.locate import FOLDER_NAME, find, index_at, is_index
from indexes.lock import lock
from retrieval.encoders.base import Encoder
from retrieval.errors import QueryError
from retrieval.indexing.options import Options, Progress, Report
from retrieval.indexing.run import index_folders
from retrieval.indexing.status import Status, status
from retrieval.query import Query, Term, parse_date
from retrieval.ranking.relevance import Level
from retrieval.ranking.reranking import Rerank
from retrieval.search import pipeline
from retrieval.search.encode_query import encode_query
from retrieval.search.hits import Hit, cut

AnyPath = str | os.PathLike[str]


def index(
    *folders: AnyPath,
    index: AnyPath | None = None,
    model: str | Encoder | None = None,
    options: Options = Options(),
    progress: Callable[[Progress], None] = lambda _: None,
    log: Callable[[str], None] = lambda _: None,
) -> Report:
    """Index folders of photos, or bring an index up to date with them.

    folders: none means all that the index knows. index: where it is kept, by default `.retrieval`
    in the first folder. model: see `load_encoder`, or what it gave; by default the one that made
    the index. progress is told after every batch, say is told sentences about the model.
    Raises RetrievalError; what was committed until then stays.
    """
    paths = [Path(folder).expanduser() for folder in folders]
    if index is not None:
        # Without folders the index has to be there; with them it may be about to be made.
        where = (
            (index_at(Path(index).expanduser()) or Path(index).expanduser())
            if paths
            else locate(index)
        )
    elif paths:
        where = paths[0] / FOLDER_NAME
        above = find(paths[0].absolute().parent)
        if above is not None and not is_index(where):
            log(
                f"{above} may hold these photos already: `retrieval index` without a folder brings "
                f"it up to date. This makes a second index, {where}."
            )
    else:
        where = locate()
    return index_folders(where, paths, model, options, progress, log)


def locate(where: AnyPath | None = None) -> Path:
    """The folder of an index; raises IndexMissingError.

    where: an index, or a folder of photos that has one. Without it: RETRIEVAL_INDEX if that is set,
    else the index of the working directory or of the nearest folder above it.
    """
    named = where if where is not None else os.environ.get("RETRIEVAL_INDEX")
    if not named:
        here = Path.cwd()
        found = find(here)
        if found is None:
            raise IndexMissingError(
                f"There is no index in {here} or above it. Make one with `retrieval index FOLDER`, "
                "or say where it is with --index."
            )
        return found
    index = index_at(Path(named).expanduser())
    if index is None:
        raise IndexMissingError(
            f"There is no index in {named}. Make one with "
            f"`retrieval index FOLDER --index {named}`, naming the folder of your photos."
        )
    return index


def open(where: AnyPath | None = None) -> "Photos":
    """Open the index of a folder of photos (or an index itself) for searching.

    where: by default RETRIEVAL_INDEX, else the working directory and upwards.
    Raises IndexMissingError or IndexDamagedError.
    """
    return Photos(Index.open(locate(where)))


class Photos:
    """Indexed photos, open for searching. Use it as a context manager, or call `close`.

    The encoder is loaded by the first query that needs it and kept for the next.
    """

    def __init__(self, index: Index) -> None:
        self._index = index
        self._encoder: Encoder | None = None

    def search(
        self,
        text: str | Sequence[str] = (),
        *,
        photos: Sequence[AnyPath] = (),
        unwanted: Sequence[str] = (),
        unwanted_photos: Sequence[AnyPath] = (),
        k: int = 10,
        within: Sequence[AnyPath] = (),
        after: str | None = None,
        before: str | None = None,
        min_score: float | None = None,
        ranking: str = "auto",
        rerank: Rerank = "none",
        relevance: Level = "all",
    ) -> list[Hit]:
        """The `k` photos that fit best, best first.

        text, photos: what is looked for; unwanted, unwanted_photos: what is not; within: folders
        to search in; after, before: dates such as '2024-05' (`after` included, `before` not);
        min_score: the lowest cosine to give; ranking: how hits are ordered, a name of
        `retrieval.ranking.NAMES`; rerank: 'match' orders the first 50 anew by how well photo and
        words match, for models that a matching was trained for; relevance: 'strict' or 'normal'
        leave out hits that hardly match, where that is known. Weights need a `Query`, see `ask`.
        Raises QueryError, ModelError or PhotoError.
        """
        texts = [text] if isinstance(text, str) else list(text)
        terms = (
            *(Term("text", t) for t in texts),
            *(Term("photo", os.fspath(p)) for p in photos),
            *(Term("text", t, wanted=False) for t in unwanted),
            *(Term("photo", os.fspath(p), wanted=False) for p in unwanted_photos),
        )
        query = Query(
            terms,
            within=tuple(Path(folder) for folder in within),
            after=parse_date(after, "after") if after else None,
            before=parse_date(before, "before") if before else None,
            min_score=min_score,
        )
        return cut(self.ask(query, k, ranking, rerank), relevance)

    def ask(
        self, query: Query, k: int = 10, ranking: str = "auto", rerank: Rerank = "none"
    ) -> list[Hit]:
        """The `k` photos that fit a `Query` best: terms with weights, and filters."""
        return pipeline.search(self._index, query, k, self._need_encoder, ranking, rerank)

    def similar(self, photo: AnyPath, k: int = 10) -> list[Hit]:
        """The `k` photos most like one, in the index or not, without the photo itself."""
        return pipeline.similar(self._index, os.fspath(photo), k, self._need_encoder)

    def embed(self, query: Query) -> Floats:
        """The vector that stands for a query, float32 [dim], of length one."""
        return encode_query(self._index, query.terms, self._need_encoder).vector

    def status(self, look: bool = True) -> Status:
        """What is indexed, and with `look` what on disk differs from it."""
        return status(self._index, look)

    def _need_encoder(self) -> Encoder:
        if self._encoder is None:
            from retrieval.encoders.registry import load_encoder_of

            self._encoder = load_encoder_of(self._index.model)
        return self._encoder

    def close(self) -> None:
        self._index.close()

    def __enter__(self) -> "Photos":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True)
class FuseReport:
    """What `fuse` did: the index, the name of the fusion, and how many photos it changed."""

    folder: Path
    fusion: str
    photos: int


def fuse(where: AnyPath | None = None) -> FuseReport:
    """Fuse all photos of an index with their captions anew, by the fusion that its model has now.

    Captions that changed since they were embedded wait for the next `index`. No photo or caption
    is encoded. Raises RetrievalError.
    """
    from retrieval.fusion.store import load_fusion
    from retrieval.indexing.fuse import fuse_photos

    folder = locate(where)
    with lock(folder), Index.open(folder, writable=True) as opened:
        fusion = load_fusion(opened.model.fingerprint, opened.model.dim)
        count = fuse_photos(opened, fusion)
        opened.refresh()
    return FuseReport(folder, fusion.name, count)


def remove(paths: Sequence[AnyPath], where: AnyPath | None = None) -> int:
    """Forget photos or folders of photos; returns how many files. The files themselves stay.

    An indexed folder that is named whole is not looked at again, unless it is the only one.
    Raises QueryError for a path that is not in the index.
    """
    folder = locate(where)
    with lock(folder), Index.open(folder, writable=True) as opened:
        chosen = []
        for path in map(Path, paths):
            located = opened.locate(path)
            if located is None or (
                located[1] and not opened.catalogue.knows(located[0].id, located[1])
            ):
                raise QueryError(
                    f"{path} is not in the index {folder}. `retrieval info` lists its folders."
                )
            chosen.append(located)
        with opened.catalogue.transaction():
            count = sum(opened.catalogue.forget_files(root.id, under) for root, under in chosen)
            for root, under in chosen:
                if not under and len(opened.roots()) > 1:
                    opened.catalogue.forget_root(root.id)
            opened.catalogue.update_presence()
        opened.refresh()
        return count
