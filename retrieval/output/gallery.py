"""The gallery: hits as one self-contained HTML page of thumbnails, scores and paths.

The page has no script and loads nothing.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from indexes.atomic_write import atomic_write
from indexes.errors import StorageError
from retrieval.errors import PhotoError, QueryError
from retrieval.output.facts import place, taken
from retrieval.output.table import percentage
from retrieval.photos.decode import load_photo
from retrieval.photos.decoder_processes import DecoderProcesses
from retrieval.photos.files import printable
from retrieval.query import Term
from retrieval.search.hits import Hit

_THUMBNAIL = 320  # pixels, the longer side


@dataclass(frozen=True)
class GallerySection:
    """A query and its hits."""

    terms: Sequence[Term]
    hits: Sequence[Hit]


def write_gallery(
    file: Path, sections: Sequence[GallerySection], title: str = "Photos found", subtitle: str = ""
) -> Path:
    """Write the page; returns its absolute path.

    Raises QueryError if the name does not end in .html, StorageError if it cannot be written.
    """
    from importlib.resources import files

    import jinja2

    if file.suffix.lower() not in (".html", ".htm"):
        raise QueryError(
            f"The gallery is an HTML page. Name it {printable(file)}.html, for example."
        )

    environment = jinja2.Environment(autoescape=True, trim_blocks=True)
    template = environment.from_string(
        (files("retrieval.output") / "gallery.html").read_text("utf-8")
    )
    with DecoderProcesses() as processes:
        shown = [
            {
                "terms": [_term(term, processes) for term in section.terms],
                "hits": [_hit(hit, processes) for hit in section.hits],
            }
            for section in sections
        ]
    page = template.render(title=title, subtitle=subtitle, sections=shown)
    file = file.absolute()
    try:
        with atomic_write(file) as temporary:
            temporary.write_text(page, "utf-8")
    except OSError as error:
        raise StorageError(
            f"The gallery {printable(file)} cannot be written ({error.strerror}). Name another "
            "file with --gallery."
        ) from error
    return file


def last_gallery() -> Path:
    """The file of a gallery that the user gave no name, in the user's cache folder."""
    import platformdirs

    return platformdirs.user_cache_path("crossmodal-retrieval", ensure_exists=True) / "last.html"


def _term(term: Term, processes: DecoderProcesses) -> dict[str, object]:
    image = None
    if term.kind == "photo" and term.value != "-":
        image = _thumbnail(Path(term.value), processes)
    return {
        "text": printable(term.value),
        "wanted": term.wanted,
        "weight": "" if term.weight == 1 else f"{term.weight:g}",
        "image": image,
    }


def _hit(hit: Hit, processes: DecoderProcesses) -> dict[str, object]:
    photo = hit.photo
    facts = [
        f"{photo.width} × {photo.height}" if photo.width else None,
        printable((photo.taken or "")[:10]),
        photo.camera,
        photo.place,
    ]
    return {
        "rank": hit.rank,
        "score": f"{hit.score:.3f}",
        "relevance": percentage(hit),
        "name": printable(hit.path.name),
        "folder": printable(hit.path.parent),
        "path": printable(hit.path),
        "facts": " · ".join(fact for fact in facts if fact),
        "known": "; ".join(fact for fact in (taken(photo), place(photo)) if fact),
        "image": _thumbnail(hit.path, processes),
    }


def _thumbnail(path: Path, processes: DecoderProcesses) -> str | None:
    """The photo as a data URL; None if it cannot be read."""
    try:
        image = load_photo(path, _THUMBNAIL, processes=processes)
    except PhotoError:
        return None
    image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
