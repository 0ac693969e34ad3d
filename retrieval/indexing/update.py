"""Bring an open index up to date: folders → changed files → encoded batches → index.

Puts the steps together: `changes` compares, `encode` reads and encodes, `commit` writes batch by
batch, `reread` and `facts_beside` bring metadata up to date, `caption_changes` and `fuse` do the
captions. `last_run` knows whether there is anything to do. A killed run loses at most the batches
in flight.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from indexes.index import Index
from indexes.vector_files import set_choice
from indexes.vectors.build import FEWEST_APPROXIMATE
from retrieval.indexing.encoder_loader import EncoderLoader
from retrieval.indexing.options import Options, Progress, Report
from retrieval.indexing.scope import caption_lists, find_scopes, remember_patterns
from retrieval.photos.files import printable
from retrieval.ranking.hub_bias import prepare_ranking

if TYPE_CHECKING:  # a search imports this module; the steps are imported by a run
    from indexes.vectors.build import Plan
    from retrieval.indexing.changes import FolderChanges, Scan
    from retrieval.indexing.commit import Committed, Outcome

OnProgress = Callable[[Progress], None]


def update(
    index: Index,
    folders: Sequence[Path],
    encoder: EncoderLoader,
    options: Options,
    progress: OnProgress,
) -> Report:
    """Do all steps over an open, locked index, for these folders or all that it knows.

    If nothing can have changed since the last run, only the vectors are looked at.
    """
    from retrieval.indexing.last_run import digest, remember, unchanged

    remember_patterns(index, options)
    lists, list_notes = caption_lists(index, options)
    scans, scan_notes = _scan(index, folders)
    state = digest(index, scans, lists)
    report = unchanged(index, state, options)
    if report is not None:
        _write_vectors(index, encoder, options, progress)
        remember(index, state, report, ())  # vectors that were written again are a change
        return report
    before = [*list_notes, *scan_notes]
    report, later = _update_photos(index, scans, lists, before, encoder, options, progress)
    _write_vectors(index, encoder, options, progress)
    if later is not None:
        remember(index, state, later, (reason for _, reason in report.reasons))
    return report


def _update_photos(
    index: Index,
    scans: Sequence["Scan"],
    lists: Sequence[Path],
    notes_before: Sequence[str],
    encoder: EncoderLoader,
    options: Options,
    progress: OnProgress,
) -> tuple[Report, Report | None]:
    """Bring the catalogue in line with folders.

    Returns what was done, and what the same run would report after it; None if it would do more.
    """
    from retrieval.indexing.caption_changes import find_caption_changes
    from retrieval.indexing.facts_beside import update_facts, update_names_of_places
    from retrieval.indexing.fuse import fuse_index
    from retrieval.indexing.reread import reread_metadata

    catalogue = index.catalogue
    changes, folder_notes = _find_changes(index, scans, options)
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
    moved_from = sum(len(batch.moved_from) for batch in batches)
    before = [*notes_before, *folder_notes]
    after = [*(note for found in captions for note in found.notes), *place_notes]
    report = replace(
        _counts(changes, batches),
        removed=sum(map(len, missing.values())) - moved_from,
        pruned=pruned,
        captioned=sum(found.captioned for found in captions),
        fused=fused,
        reread=reread,
        notes=[*before, *_notes(batches), *after],
    )
    if len(changes) < len(scans):
        return report, None
    files = sum(len(scan.files) for scan in scans)
    later = Report(
        unchanged=files - report.skipped,
        skipped=report.skipped,
        captioned=report.captioned,
        notes=[*before, *after],
    )
    return report, later


def _scan(index: Index, folders: Sequence[Path]) -> tuple[list["Scan"], list[str]]:
    """What is in each folder that is there, and sentences about others."""
    from retrieval.indexing.changes import scan

    scopes, notes = find_scopes(index, folders)
    exclude, include = index.excluded(), index.included()
    return [scan(root, under, exclude, include) for root, under in scopes], notes


def _find_changes(
    index: Index, scans: Sequence["Scan"], options: Options
) -> tuple[list["FolderChanges"], list[str]]:
    """What changed in each folder, and sentences about folders.

    Files that came back as they were are put into the catalogue here.
    """
    from retrieval.indexing.changes import find_changes

    retry_large = options.max_megapixels is not None
    changes, notes = [], list[str]()
    for scan in scans:
        root, under = scan.root, scan.under
        known = index.catalogue.files.below(root.id, under)
        change = find_changes(scan, known, retry_large)
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
    if encoder.loaded is not None:
        prepare_ranking(index, encoder.loaded)


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
