"""Read an indexed folder as a captioned photo set: its photos, and the captions in the index."""

from collections.abc import Iterator
from pathlib import Path

from indexes.index import Index
from retrieval.indexing.trust import check_trust


def read_index(index: Path) -> Iterator[tuple[Path, str, tuple[str, ...]]]:
    """(root folder, path in it, captions) of every present photo with captions.

    A photo that is in several places is given once. Raises UntrustedIndexError.
    """
    with Index.open(index) as opened:
        check_trust(opened)
        seen: set[int | None] = set()
        for root in opened.roots():
            captions: dict[str, list[str]] = {}
            for caption in opened.catalogue.captions.of_root(root.id):
                captions.setdefault(caption.path, []).append(caption.text)
            files = opened.catalogue.files.below(root.id)
            for path, texts in captions.items():
                file = files.get(path)
                if file and file.present and file.photo_id and file.photo_id not in seen:
                    seen.add(file.photo_id)
                    yield root.path, path, tuple(texts)
