"""Import embeddings into a new index: the model, the source and the index put together.

The index is there when it is complete, or not at all. The steps are in `importing` and `source`.
"""

from collections.abc import Callable
from pathlib import Path

from indexes.catalogue import IndexModel
from indexes.errors import RetrievalError
from indexes.index import Index
from indexes.locate import is_index
from indexes.lock import lock
from indexes.staged_rebuild import staged_creation
from indexes.vectors.build import FEWEST_APPROXIMATE
from retrieval.encoders.at_hand import encoder_at_hand, named_dimension
from retrieval.encoders.base import Encoder, Log
from retrieval.encoders.registry import UNCHECKED, canonical_name
from retrieval.errors import ModelError
from retrieval.fusion.store import load_fusion
from retrieval.indexing.fuse import fuse_photos
from retrieval.indexing.imported import check_imported
from retrieval.indexing.options import Progress
from retrieval.indexing.trust import is_known_model
from retrieval.photos.files import printable
from retrieval.ranking.hub_bias import prepare_ranking
from retrieval.ranking.vector_plan import vector_plan
from retrieval.transfer.about import About, read_about
from retrieval.transfer.importing import ImportReport, fill
from retrieval.transfer.source import Source, open_source

OnProgress = Callable[[Progress], None]


def import_into(
    folder: Path,
    where: Path,
    model: str | Encoder | None,
    photos: Path | None,
    progress: OnProgress = lambda _: None,
    log: Log = lambda _: None,
) -> ImportReport:
    """Make the index in `folder` of the embeddings in `where`.

    model: that made them; None for the one that an export names. photos: the folder that the
    photos are in. Raises RetrievalError; then there is no index.
    """
    if photos is not None and not photos.is_dir():
        raise RetrievalError(f"{photos} is not a folder. Name the folder that the photos are in.")
    source, index_model, encoder = _open(where, model, log)
    with lock(folder):
        if is_index(folder):
            raise RetrievalError(
                f"There is an index in {folder}, and embeddings are imported into a new one. Name "
                "another place with --index DIR."
            )
        checked = False

        def check() -> None:
            nonlocal checked
            checked = encoder is not None and check_imported(index, encoder)

        with staged_creation(folder, index_model) as index:
            root, _ = index.add_root(photos or as_folder(where))
            counts = fill(
                index,
                root,
                source,
                photos is not None,
                lambda done, total: progress(Progress(done, total, 0)),
                check,
            )
            index.catalogue.update_presence()
            fuse_photos(index, load_fusion(index_model.fingerprint, index_model.dim))
        with Index.open(folder, writable=True) as index:
            _finish(index, encoder, progress)
            number = index.photo_count()
    return ImportReport(
        folder,
        index_model,
        counts.rows,
        number,
        counts.at_hand,
        counts.captioned,
        counts.refused,
        counts.reasons,
        checked,
    )


def _finish(index: Index, encoder: Encoder | None, progress: OnProgress) -> None:
    """Write the vectors and what the default ranking needs, as `retrieval index` does."""
    get_encoder = (lambda: encoder) if encoder is not None else None
    few = index.photo_count() < FEWEST_APPROXIMATE
    index.refresh(
        lambda: vector_plan(
            index,
            None if few else get_encoder,
            lambda done, total: progress(Progress(done, total, 0, "vectors")),
        )
    )
    if encoder is not None:
        prepare_ranking(index, encoder)


def as_folder(where: Path) -> Path:
    """The folder that paths are relative to when nobody names one: the source, as if unpacked.

    It is not looked into, and need not be there.
    """
    return where if where.is_dir() else where.with_suffix("")


# The model -------------------------------------------------------------------------------------


def _open(
    where: Path, model: str | Encoder | None, log: Log
) -> tuple[Source, IndexModel, Encoder | None]:
    """The source, what is recorded of the model, and its encoder if that is at hand."""
    if model is not None and not isinstance(model, str):
        return open_source(where, model.dim), _model_of(model), model
    about = None
    if model is None:
        about = read_about(where) if where.is_dir() else None
        model = _exported_model(where, about)
    encoder = encoder_at_hand(model, log)
    if encoder is not None:
        if about is not None and about.fingerprint not in (encoder.fingerprint, UNCHECKED):
            raise ModelError(
                f"{printable(where)} was exported with other weights of {encoder.name} "
                f"({printable(about.fingerprint[:40])}) than those on this machine "
                f"({encoder.fingerprint}). Install those weights, or name a model with --model."
            )
        return open_source(where, encoder.dim), _model_of(encoder), encoder
    source = open_source(where, named_dimension(model))
    log(
        f"The weights of {model} are not on this machine: they are checked when a text is first "
        "searched."
    )
    fingerprint = UNCHECKED if about is None else about.fingerprint
    name = canonical_name(model)
    fusion = load_fusion(fingerprint, source.dim).name
    return source, IndexModel(name, fingerprint, source.dim, fusion), None


def _exported_model(where: Path, about: About | None) -> str:
    if about is None:
        raise ModelError(
            f"{printable(where)} does not say which model made the embeddings. Name it with "
            "--model ARCH:WEIGHTS, as open_clip does."
        )
    if not is_known_model(about.model):
        raise ModelError(
            f"{printable(where)} was made by the model {printable(about.model[:100])}. If you "
            "trust it, name it, or where it is here, with --model."
        )
    return about.model


def _model_of(encoder: Encoder) -> IndexModel:
    fusion = load_fusion(encoder.fingerprint, encoder.dim).name
    return IndexModel(encoder.name, encoder.fingerprint, encoder.dim, fusion)
