"""An indexed folder as a captioned photo set: its photos, and what the index has about them."""

from collections.abc import Iterator
from pathlib import Path

from indexes.index import Index


def read_index(index: Path) -> Iterator[tuple[Path, str, tuple[str, ...]]]:
    """(folder, path in it, captions) of every present photo with captions, one place of each."""
    with Index.open(index) as opened:
        met: set[int | None] = set()
        for root in opened.roots():
            said: dict[str, list[str]] = {}
            for caption in opened.catalogue.captions(root.id):
                said.setdefault(caption.path, []).append(caption.text)
            files = opened.catalogue.files(root.id)
            for path, texts in said.items():
                file = files.get(path)
                if file and file.present and file.photo_id and file.photo_id not in met:
                    met.add(file.photo_id)
                    yield root.path, path, tuple(texts)
