"""Bring your own embeddings, and take them elsewhere: the public functions, thin over the room
`transfer`.

    retrieval.import_embeddings("laion", index="laion-index", model="ViT-B-32:laion2b_s34b_b79k")
    retrieval.export("out", "photos")
"""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from indexes.index import Index
from indexes.locate import FOLDER_NAME
from indexes.milvus.place import is_cluster
from retrieval.api import find_index
from retrieval.encoders.base import Encoder
from retrieval.errors import QueryError
from retrieval.indexing.options import Progress
from retrieval.indexing.trust import check_trust, trust_command
from retrieval.query import AnyPath
from retrieval.transfer.export import ExportReport, export_to
from retrieval.transfer.importing import ImportReport
from retrieval.transfer.run import as_folder, import_into


def import_embeddings(
    source: AnyPath,
    index: AnyPath | None = None,
    model: str | Encoder | None = None,
    folder: AnyPath | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
    log: Callable[[str], None] = lambda _: None,
) -> ImportReport:
    """Make an index of embeddings that were computed elsewhere; no photo is encoded.

    source: a .npy of image embeddings, one a row, with a Parquet, CSV or JSON lines file of paths
    and captions beside it; a folder with `img_emb`, `text_emb` and `metadata`, as clip-retrieval
    and `export` write it; or a tar, or a folder of tars, with one .npy an image. index: the folder
    of the new index, by default `.retrieval` in `folder`. model: that made the embeddings, a name
    or a loaded encoder; may be left out for what `export` wrote. folder: of the photos, as far as
    they are at hand; without it none is looked for. progress: called after every batch; log:
    called with sentences for the user. Raises RetrievalError; then there is no new index.
    """
    if is_cluster(index):
        raise QueryError(
            "Embeddings are imported into an index in a folder. To have them in Milvus, index the "
            "photos with --lake: docs/scale.md."
        )
    photos = None if folder is None else Path(folder).expanduser()
    if index is not None:
        target = Path(index).expanduser()
    elif photos is not None:
        target = photos / FOLDER_NAME
    else:
        raise QueryError("Name the folder of the new index with --index DIR.")
    where = Path(source).expanduser()
    # Before the run: it may be killed when the index is there.
    if not trust_command(target, [photos or as_folder(where)], model):
        log(
            "It cannot be recorded that this index is trusted: the user's data folder cannot be "
            "written. Add --trust to the commands that use it."
        )
    return import_into(target, where, model, photos, progress, log)


def export(
    folder: AnyPath,
    where: AnyPath | None = None,
    dtype: Literal["float32", "float16"] = "float32",
    trust: bool = False,
) -> ExportReport:
    """Write the embeddings, captions and facts of an index to a new folder, for other programs.

    `img_emb/img_emb_0.npy` has a row for each photo, `text_emb/text_emb_0.npy` its caption
    embedding (zeros without one; no file if no photo has one), `metadata/metadata_0.parquet`, or
    `.jsonl` where pyarrow is not installed, its path, captions, hash and facts; `index.json` names
    the model. The folder is written whole or not at all. where: as for `find_index`; trust: as for
    `open`. Raises RetrievalError.
    """
    with Index.open(find_index(where)) as opened:
        check_trust(opened, trust, model_given=True)
        return export_to(opened, Path(folder).expanduser(), dtype)
