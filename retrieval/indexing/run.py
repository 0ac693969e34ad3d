"""Bring an index up to date: which one, with which model, in place or made anew.

What a run then does, `retrieval.indexing.update` knows.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from indexes.catalogue import IndexModel
from indexes.errors import RetrievalError
from indexes.index import Index
from indexes.locate import is_index
from indexes.lock import lock
from indexes.milvus.mirrors import refuse_mirror
from indexes.paths import is_file, is_folder
from indexes.staged_rebuild import delete_litter, staged_rebuild
from indexes.vector_files import choice_of
from retrieval.encoders.base import Encoder, Log
from retrieval.encoders.registry import load_encoder
from retrieval.fusion.store import load_fusion
from retrieval.indexing.encoder_loader import EncoderLoader
from retrieval.indexing.imported import confirm_model
from retrieval.indexing.options import Options, Report
from retrieval.indexing.update import OnProgress, update


def index_folders(
    folder: Path,
    folders: Sequence[Path] = (),
    model: str | Encoder | None = None,
    options: Options = Options(),
    progress: OnProgress = lambda _: None,
    log: Log = lambda _: None,
) -> Report:
    """Bring the index in `folder` up to date with `folders`, or with all that it knows.

    model: as `load_encoder` takes it, or a loaded encoder; None for the model that made the index,
    `auto` for a new one. progress: called after every batch; log: receives sentences about the
    model. Raises RetrievalError; what was committed before stays.
    """
    started = time.perf_counter()
    refuse_mirror(folder, "A run from here")
    for path in folders:
        if not is_folder(path):
            what = "is a file, not a folder" if is_file(path) else "does not exist"
            raise RetrievalError(f"{path} {what}. Name the folder that your photos are in.")
    with lock(folder):
        delete_litter(folder)
        job = _rebuild if options.rebuild and is_index(folder) else _update
        report = job(folder, folders, model, options, progress, log)
    return replace(report, seconds=time.perf_counter() - started)


def _update(
    folder: Path,
    folders: Sequence[Path],
    model: str | Encoder | None,
    options: Options,
    progress: OnProgress,
    log: Log,
) -> Report:
    """Bring the index up to date; create it if there is none."""
    if not is_index(folder):
        model = _load(model or "auto", options, log)
        Index.create(folder, _index_model(model)).close()
    with Index.open(folder, writable=True) as index:
        encoder = EncoderLoader(index.model, model, options.compute, log)
        confirm_model(index, encoder)
        return update(index, folders, encoder, options, progress)


def _rebuild(
    folder: Path,
    folders: Sequence[Path],
    model: str | Encoder | None,
    options: Options,
    progress: OnProgress,
    log: Log,
) -> Report:
    """Encode all photos of the index and of `folders` again; searches use the old index until then.

    Raises RetrievalError if a folder is away, for its photos would be forgotten.
    """
    with Index.open(folder) as old:
        for root in old.roots():
            if old.is_unavailable(root):
                raise RetrievalError(
                    f"The folder {root.path} does not exist or is empty now; a rebuild would "
                    "forget its photos. Bring it back, or forget them first with "
                    f"`retrieval remove {root.path}`."
                )
        elsewhere = old.catalogue.files.count_elsewhere()
        if elsewhere:
            raise RetrievalError(
                f"{elsewhere:,} photos of the index {folder} were imported without their files, "
                "which a rebuild would need. Make a new index of the files that are here, with "
                "--index DIR; or import embeddings by another model into one."
            )
        encoder = _load(model or old.model.name, options, log)
        every_folder = [*(root.path for root in old.roots()), *folders]
        captions = options.captions
        if captions is None:
            captions = [file for file in old.caption_files() if is_file(file)]
        options = replace(
            options,
            exclude=old.excluded() if options.exclude is None else options.exclude,
            include=old.included() if options.include is None else options.include,
            captions=captions,
            vectors=options.vectors or choice_of(old.catalogue),
        )
        notes = old.catalogue.notes.all()
    with staged_rebuild(folder, _index_model(encoder)) as new:
        loader = EncoderLoader(new.model, encoder, options.compute, log)
        new.catalogue.notes.put_all(notes)
        report = update(new, every_folder, loader, options, progress)
    with Index.open(folder, writable=True) as index:
        index.refresh()
    return report


def _load(model: str | Encoder, options: Options, log: Log) -> Encoder:
    return load_encoder(model, log, options.compute) if isinstance(model, str) else model


def _index_model(encoder: Encoder) -> IndexModel:
    fusion = load_fusion(encoder.fingerprint, encoder.dim).name
    return IndexModel(encoder.name, encoder.fingerprint, encoder.dim, fusion)
