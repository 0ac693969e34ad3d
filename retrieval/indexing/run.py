"""Bring an index up to date: folders → changed files → encoded batches → index.

Puts the steps together: `changes` compares, `encode` reads and encodes, `commit` writes batch by
batch, `reread` and `facts_beside` bring metadata up to date, `caption_changes` and `fuse` do the
captions. A killed run loses at most the batches in flight.
"""

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from indexes.catalogue import IndexModel
from indexes.errors import RetrievalError
from indexes.index import Index
from indexes.locate import is_index
from indexes.lock import lock
from indexes.paths import is_file, is_folder
from indexes.staged_rebuild import delete_litter, staged_rebuild
from indexes.vector_files import choice_of, set_choice
from indexes.vectors.build import FEWEST_APPROXIMATE
from retrieval.encoders.base import Encoder, Log
from retrieval.encoders.registry import load_encoder
from retrieval.fusion.store import load_fusion
from retrieval.indexing.encoder_loader import EncoderLoader
from retrieval.indexing.imported import confirm_model
from retrieval.indexing.options import Options, Progress, Report
from retrieval.indexing.scope import caption_lists, find_scopes, remember_patterns
from retrieval.photos.files import printable
from retrieval.ranking.hub_bias import prepare_ranking

if TYPE_CHECKING:  # a search imports this module; the steps are imported by a run
    from indexes.vectors.build import Plan
    from retrieval.indexing.changes import FolderChanges
    from retrieval.indexing.commit import Committed, Outcome

OnProgress = Callable[[Progress], None]


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
        return _run(index, folders, encoder, options, progress)


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
        report = _run(new, every_folder, loader, options, progress)
    with Index.open(folder, writable=True) as index:
        index.refresh()
    return report


def _load(model: str | Encoder, options: Options, log: Log) -> Encoder:
    return load_encoder(model, log, options.compute) if isinstance(model, str) else model


def _index_model(encoder: Encoder) -> IndexModel:
    fusion = load_fusion(encoder.fingerprint, encoder.dim).name
    return IndexModel(encoder.name, encoder.fingerprint, encoder.dim, fusion)


# The run ---------------------------------------------------------------------------------------


def _run(
    index: Index,
    folders: Sequence[Path],
    encoder: EncoderLoader,
    options: Options,
    progress: OnProgress,
) -> Report:
    """Do all steps over an open, locked index, for these folders or all that it knows."""
    from retrieval.indexing.caption_changes import find_caption_changes
    from retrieval.indexing.facts_beside import update_facts, update_names_of_places
    from retrieval.indexing.fuse import fuse_index
    from retrieval.indexing.reread import reread_metadata

    catalogue = index.catalogue
    remember_patterns(index, options)
    lists, list_notes = caption_lists(index, options)
    changes, folder_notes = _find_changes(index, folders, options)
    missing: dict[int, set[str]] = {}  # by root: paths of files that are no longer there
    for change in changes:
        missing.setdefault(change.root.id, set()).update(change.missing)
    batches = _encode(index, changes, missing, encoder, options, progress)
    reread = reread_metadata(catalogue, changes, options, progress)
    embedded = {place: texts for batch in batches for place, texts in batch.captions.items()}
    captions = [
        find_caption_changes(
            catalogue, change.root, change.under, missing[change.root.id], lists, embedded
        )
        for change in changes
    ]
    with catalogue.transaction():
        for found in captions:
            texts = (caption for of_path in found.changed.values() for caption in of_path)
            catalogue.captions.put(found.root.id, found.changed, texts)
        for root_id, paths in missing.items():
            catalogue.files.mark_missing(root_id, paths)
        update_facts(catalogue, [found.beside for found in captions])
        place_notes = update_names_of_places(catalogue)
        catalogue.update_presence()
        pruned = catalogue.prune() if options.prune else 0
    fused = fuse_index(
        index, encoder, lambda done, total: progress(Progress(done, total, 0, "captions"))
    )
    _write_vectors(index, encoder, options, progress)
    if encoder.loaded is not None:
        prepare_ranking(index, encoder.loaded)
    moved_from = sum(len(batch.moved_from) for batch in batches)
    return replace(
        _counts(changes, batches),
        removed=sum(map(len, missing.values())) - moved_from,
        pruned=pruned,
        captioned=sum(found.captioned for found in captions),
        fused=fused,
        reread=reread,
        notes=[
            *list_notes,
            *folder_notes,
            *_notes(batches),
            *(note for found in captions for note in found.notes),
            *place_notes,
        ],
    )


def _find_changes(
    index: Index, folders: Sequence[Path], options: Options
) -> tuple[list["FolderChanges"], list[str]]:
    """What changed in each folder that is there, and sentences about folders.

    Files that came back as they were are put into the catalogue here.
    """
    from retrieval.indexing.changes import find_changes

    scopes, notes = find_scopes(index, folders)
    exclude, include = index.excluded(), index.included()
    retry_large = options.max_megapixels is not None
    changes = []
    for root, under in scopes:
        known = index.catalogue.files.below(root.id, under)
        change = find_changes(root, under, known, exclude, include, retry_large)
        # Asked after the walk: a disk may go away during it, and its photos are not missing.
        if not under and known and index.is_unavailable(root):
            notes.append(
                f"The folder {root.path} is empty now (is a disk not mounted?); its photos stay in "
                f"the index. `retrieval remove {root.path}` forgets them."
            )
            continue
        index.catalogue.files.put(root.id, change.returned)
        notes += change.notes
        changes.append(change)
    return changes, notes


def _encode(
    index: Index,
    changes: Sequence["FolderChanges"],
    missing: Mapping[int, Collection[str]],
    encoder: EncoderLoader,
    options: Options,
    progress: OnProgress,
) -> list["Committed"]:
    """Read the changed files, encode what is new, and commit batch by batch."""
    from retrieval.indexing.commit import commit_batch
    from retrieval.indexing.encode import encode_files

    to_read = [file for change in changes for file in change.to_read]
    if not to_read:
        return []
    committed: list[Committed] = []
    done, skipped = 0, sum(change.skipped for change in changes)
    progress(Progress(0, len(to_read), 0))
    with closing(
        encode_files(to_read, index.catalogue.photos.hashes(), encoder, options)
    ) as batches:
        for batch in batches:
            result = commit_batch(index.catalogue, batch, missing)
            committed.append(result)
            done += len(batch.files)
            skipped += result.outcomes["skipped"]
            progress(Progress(done, len(to_read), skipped))
    progress(Progress(len(to_read), len(to_read), skipped))  # files that vanished are done, too
    return committed


def _write_vectors(
    index: Index, encoder: EncoderLoader, options: Options, progress: OnProgress
) -> None:
    """Bring the vectors in line with the catalogue, of the kind that the user wants."""
    from retrieval.ranking.vector_plan import vector_plan

    if options.vectors is not None:
        set_choice(index.catalogue, options.vectors)

    def plan() -> "Plan":
        # No model is loaded for a few photos: they are searched exactly, with or without biases.
        few = index.catalogue.embeddings.last_id() < FEWEST_APPROXIMATE
        loaded = encoder.loaded
        get_encoder = encoder if not few else None if loaded is None else (lambda: loaded)
        return vector_plan(
            index, get_encoder, lambda done, total: progress(Progress(done, total, 0, "vectors"))
        )

    index.refresh(plan)


def _notes(batches: Sequence["Committed"]) -> list[str]:
    """Sentences about the photos of a run."""
    incomplete = [path for batch in batches for path in batch.incomplete]
    if not incomplete:
        return []
    names = ", ".join(printable(path) for path in incomplete[:3])
    more = f" and {len(incomplete) - 3} more" if len(incomplete) > 3 else ""
    return [
        f"The file ends too early, and the photo is shown as far as it goes: {names}{more}. Copy "
        "it again if you have it elsewhere."
    ]


def _counts(changes: Sequence["FolderChanges"], batches: Sequence["Committed"]) -> Report:
    """The files of a run by what happened to them."""
    outcomes: Counter[Outcome] = sum((batch.outcomes for batch in batches), Counter())
    return Report(
        added=outcomes["added"] + sum(len(change.returned) for change in changes),
        updated=outcomes["updated"],
        moved=outcomes["moved"],
        copied=outcomes["copied"],
        unchanged=outcomes["unchanged"] + sum(change.unchanged for change in changes),
        skipped=outcomes["skipped"] + sum(change.skipped for change in changes),
        encoded=sum(batch.encoded for batch in batches),
        reasons=[reason for batch in batches for reason in batch.reasons],
    )
