"""Whether anything can have changed since the run that last brought the index up to date.

That run stores a digest of all that a run depends on: names, sizes and times of files, patterns,
versions. Any change of the catalogue makes it forget the digest. If the next run finds the same, it
has nothing to do, and does not compare a million files with a million rows to learn it.
"""

import json
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path

from blake3 import blake3

from indexes.facts import METADATA_VERSION
from indexes.index import Index
from retrieval.captions.lists import lists_above
from retrieval.fusion.store import load_fusion
from retrieval.indexing.changes import RETRIED, Scan
from retrieval.indexing.options import Options, Report
from retrieval.photos.walk import has_rawpy

_MOST_TEXT = 1_000_000  # characters that are stored
_MOST_NOTES = 1000
_FILES = 4096  # whose lines are joined at a time


def digest(index: Index, scans: Sequence[Scan], lists: Sequence[Path]) -> str:
    """What a run over these folders depends on. lists: files of captions that the user named."""
    from retrieval import __version__

    whole = blake3()
    settings = (
        __version__,
        METADATA_VERSION,
        has_rawpy(),
        find_spec("reverse_geocode") is not None,
        index.excluded(),
        index.included(),
        load_fusion(index.model.fingerprint, index.model.dim).name,
        [_state(path) for path in lists],
    )
    _add(whole, [repr(settings)])
    for scan in scans:
        above = [_state(path) for path in lists_above(scan.root.path)]
        _add(whole, [repr((scan.root.id, str(scan.root.path), scan.under, above))])
        _add(whole, (f"{f.path}\0{f.bytes} {f.mtime_ns}" for f in scan.files))
        _add(whole, (f"{f.path}\0{f.bytes} {f.mtime_ns} {f.ctime_ns}" for f in scan.texts))
        _add(whole, sorted(scan.left_out.unreadable))
    return whole.hexdigest()


def unchanged(index: Index, state: str, options: Options) -> Report | None:
    """The report of a run that has nothing to do, None if there may be something.

    state: the `digest` of this run.
    """
    if options.prune or options.reread or options.max_megapixels is not None:
        return None
    try:
        stored = json.loads(index.catalogue.database.last_run())
        if stored["digest"] != state:
            return None
        numbers = {name: stored[name] for name in ("unchanged", "skipped", "captioned")}
        notes = stored["notes"]
        fits = all(type(n) is int and n >= 0 for n in numbers.values()) and (
            isinstance(notes, list) and all(isinstance(note, str) for note in notes)
        )
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    if not fits or not index.catalogue.full_text.is_sound():
        return None
    return Report(**numbers, notes=notes)


def remember(index: Index, state: str, report: Report, reasons: Iterable[str]) -> None:
    """Store what a run found that did all there was to do, unless it is stored already: the last
    write of the run.

    state: its `digest`; report: of the same run if it were made again; reasons: why files that this
    run read are bad. Nothing is stored if some are to be read again.
    """
    if index.catalogue.database.last_run():
        return
    if any(reason.startswith(RETRIED) for reason in reasons) or index.catalogue.facts.outdated():
        return
    text = json.dumps(
        {
            "digest": state,
            "unchanged": report.unchanged,
            "skipped": report.skipped,
            "captioned": report.captioned,
            "notes": report.notes,
        }
    )
    if len(report.notes) <= _MOST_NOTES and len(text) <= _MOST_TEXT:
        index.catalogue.database.put_last_run(text)


def _add(whole: blake3, lines: Iterable[str]) -> None:
    """Add lines and how many they are, so that other lines never give the same digest."""
    count, part = 0, list[str]()
    for line in lines:
        part.append(line)
        if len(part) == _FILES:
            count += len(part)
            whole.update("\0\0".join(part).encode("utf-8", "surrogateescape"))
            part = []
    whole.update("\0\0".join((*part, str(count + len(part)))).encode("utf-8", "surrogateescape"))


def _state(path: Path) -> tuple[str, int, int, int]:
    """A file as far as it can be told without opening it."""
    try:
        state = path.stat()
    except OSError:
        return str(path), -1, 0, 0
    return str(path), state.st_size, state.st_mtime_ns, state.st_ctime_ns
