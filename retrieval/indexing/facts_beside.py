"""When and where photos were taken by the names of their files and by what lies beside them.

They stand in for what a photo itself does not say, and go when the name or the file beside it goes.
The names of places are looked up here, too, once for each place that a photo has.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from indexes.catalogue import Catalogue
from indexes.facts import Facts
from indexes.index_roots import Root
from retrieval.captions.photo_sidecars import OUTSIDE_PHOTOS, Sidecar
from retrieval.photos.dates import FILE_NAME, FoundDate, date_in_name, first_valid

_OUTSIDE = (FILE_NAME, *OUTSIDE_PHOTOS)
_NO_NAMES = (
    "Names of places are not known here: `pip install reverse-geocode` brings them, and the next "
    "`retrieval index` adds them."
)


@dataclass(frozen=True)
class Beside:
    """What lies beside the photos of a folder (the part `under` of a root), by their path."""

    root: Root
    under: str
    sidecars: Mapping[str, Sequence[Sidecar]]


def update_facts(catalogue: Catalogue, folders: Iterable[Beside]) -> None:
    """Bring times and places that come from outside of photos in line with their files."""
    facts = catalogue.facts.open_to(_OUTSIDE)
    files: defaultdict[int, list[tuple[str, Sequence[Sidecar]]]] = defaultdict(list)
    for folder in folders:
        photos = catalogue.files.photos_below(folder.root.id, folder.under, present_only=True)
        for path, photo_id in photos.items():
            sidecars = folder.sidecars.get(path, ())
            # Most photos say themselves when they were taken, and need no memory here.
            if sidecars or photo_id in facts:
                files[photo_id].append((path, sidecars))
    facts.update(catalogue.facts.get(i for i in files if i not in facts))
    changed = {}
    for photo_id, before in facts.items():
        if photo_id in files:
            now = completed(before, files[photo_id])
            if now != before:
                changed[photo_id] = now
    lost = [i for i, now in changed.items() if _is_lost(facts[i], now)]
    # What another file of the same photo told, in a folder that this run did not look at, stays.
    for photo_id, (_, places) in catalogue.photos.get(lost).items():
        if len(places) > len(files[photo_id]):
            del changed[photo_id]
    catalogue.facts.put(changed)


def update_names_of_places(catalogue: Catalogue) -> list[str]:
    """Look up the names of places that are new; returns sentences for the user."""
    points = catalogue.facts.without_names()
    if not points:
        return []
    from retrieval.photos import place_names  # thousands of names, which most runs do not need

    if not place_names.available():
        return [_NO_NAMES]
    names = place_names.names_of(list(points.values()))
    catalogue.facts.put_names(dict(zip(points, names, strict=True)))
    return []


def completed(facts: Facts, files: Sequence[tuple[str, Sequence[Sidecar]]]) -> Facts:
    """The facts of a photo: its own, else what the names and sidecars of its files say.

    files: paths in their roots, each with what lies beside it.
    """
    if facts.taken is None or facts.taken_source in _OUTSIDE:
        taken = first_valid(_dates(files))
        facts = replace(
            facts,
            taken=taken.time if taken else None,
            taken_offset=taken.offset if taken else None,
            taken_source=taken.source if taken else None,
        )
    if facts.latitude is None or facts.place_source in _OUTSIDE:
        found = (s for _, sidecars in files for s in sidecars if s.place is not None)
        sidecar = next(found, None)
        latitude, longitude = (sidecar and sidecar.place) or (None, None)
        source = sidecar.place_source if sidecar else None
        facts = replace(facts, latitude=latitude, longitude=longitude, place_source=source)
    return facts


def _dates(files: Sequence[tuple[str, Sequence[Sidecar]]]) -> Iterator[FoundDate]:
    """The dates in the names of a photo's files, then those beside them."""
    names = (date_in_name(path.rpartition("/")[2]) for path, _ in files)
    yield from (date for date in names if date is not None)
    yield from (date for _, sidecars in files for s in sidecars for date in s.dates)


def _is_lost(before: Facts, now: Facts) -> bool:
    return (before.taken is not None and now.taken is None) or (
        before.latitude is not None and now.latitude is None
    )
