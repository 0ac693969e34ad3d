"""Compare the captions that photos have now with those in the catalogue.

Captions come from files beside photos, from lists, and from the photo files themselves. Nothing is
written or embedded here; `fuse` embeds the captions.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from indexes.captions import IMPORTED, Caption
from indexes.catalogue import Catalogue
from indexes.index_roots import Root
from retrieval.captions.sidecars import read_captions
from retrieval.indexing.commit import Place
from retrieval.indexing.facts_beside import Beside


@dataclass(frozen=True)
class CaptionChanges:
    """The files of a root whose captions changed, by path, with all their captions as they are now.

    captioned: how many files that were looked at have captions, changed or not; beside: what else
    the files beside the photos say.
    """

    root: Root
    changed: dict[str, tuple[Caption, ...]]
    captioned: int
    notes: tuple[str, ...]
    beside: Beside


def find_caption_changes(
    catalogue: Catalogue,
    root: Root,
    under: str,
    missing: Collection[str],
    lists: Sequence[Path],
    embedded: Mapping[Place, Sequence[Caption]],
) -> CaptionChanges:
    """Read the captions of the photos below `under` and compare them with the catalogue.

    missing: paths of files that are no longer there; lists: files of captions that the user named;
    embedded: the captions inside the files that this run read.
    """
    here = catalogue.files.photos_below(root.id, under, present_only=True)
    paths = [path for path in here if path not in missing]
    read = read_captions(root.path, paths, lists)
    now = _by_path(read.captions)
    chosen = set(paths)
    for path in paths:
        if inside := embedded.get((root.id, path)):
            now[path] = [*now.get(path, ()), *inside]
    unchanged: set[str] = set()
    emptied: list[str] = []
    for path, before in catalogue.captions.by_file(root.id):
        if path not in chosen:
            continue
        # A file that was not read in this run is as it was.
        staying = (IMPORTED,) if (root.id, path) in embedded else (IMPORTED, path)
        more = [caption for caption in before if caption.origin in staying]
        if more:
            now[path] = [*now.get(path, ()), *more]
        if path not in now:
            emptied.append(path)
        elif now[path] == before:
            unchanged.add(path)
    changed = {path: tuple(texts) for path, texts in now.items() if path not in unchanged}
    changed.update((path, ()) for path in emptied)
    beside = Beside(root, under, read.sidecars)
    return CaptionChanges(root, changed, len(now), tuple(read.notes), beside)


def _by_path(captions: Iterable[Caption]) -> dict[str, list[Caption]]:
    by_path: defaultdict[str, list[Caption]] = defaultdict(list)
    for caption in captions:
        by_path[caption.path].append(caption)
    return dict(by_path)
