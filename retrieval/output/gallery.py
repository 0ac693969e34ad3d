"""One self-contained HTML page of hits: thumbnails, scores and paths, no script, no network."""

import base64
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from indexes.errors import StorageError
from retrieval.errors import PhotoError, QueryError
from retrieval.output.text import percentage
from retrieval.photos.decode import load_photo
from retrieval.photos.files import printable
from retrieval.query import Term
from retrieval.search.hits import Hit

_THUMBNAIL = 320  # pixels, the longer side


@dataclass(frozen=True)
class Section:
    """A query and its hits."""

    terms: Sequence[Term]
    hits: Sequence[Hit]


def write_gallery(
    file: Path, sections: Sequence[Section], title: str = "Photos found", subtitle: str = ""
) -> Path:
    """Write the page under a temporary name and rename it; returns its absolute path.

    Raises StorageError where it cannot be written.
    """
    from importlib.resources import files

    import jinja2

    if file.suffix.lower() not in (".html", ".htm"):
        raise QueryError(f"The gallery is a page: name it {printable(file)}.html, for example.")

    environment = jinja2.Environment(autoescape=True, trim_blocks=True)
    template = environment.from_string(
        (files("retrieval.output") / "gallery.html").read_text("utf-8")
    )
    page = template.render(
        title=title,
        subtitle=subtitle,
        sections=[
            {"terms": [_term(t) for t in s.terms], "hits": [_hit(h) for h in s.hits]}
            for s in sections
        ],
    )
    file = file.absolute()
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(page, "utf-8")
        temporary.replace(file)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StorageError(
            f"The gallery {printable(file)} cannot be written ({error.strerror}). Name another "
            "file with --gallery."
        ) from error
    return file


def last_gallery() -> Path:
    """Where a gallery goes that was given no name: the user's cache folder."""
    import platformdirs

    return platformdirs.user_cache_path("crossmodal-retrieval", ensure_exists=True) / "last.html"


def _term(term: Term) -> dict[str, object]:
    image = None
    if term.kind == "photo" and term.value != "-":
        image = _thumbnail(Path(term.value))
    return {
        "text": printable(term.value),
        "wanted": term.wanted,
        "weight": "" if term.weight == 1 else f"{term.weight:g}",
        "image": image,
    }


def _hit(hit: Hit) -> dict[str, object]:
    photo = hit.photo
    facts = [f"{photo.width} × {photo.height}", photo.taken and photo.taken[:10], photo.camera]
    return {
        "rank": hit.rank,
        "score": f"{hit.score:.3f}",
        "relevance": percentage(hit),
        "name": printable(hit.path.name),
        "folder": printable(hit.path.parent),
        "path": printable(hit.path),
        "facts": " · ".join(fact for fact in facts if fact),
        "image": _thumbnail(hit.path),
    }


def _thumbnail(path: Path) -> str | None:
    """The photo as a data URL, or None where it cannot be read any more."""
    try:
        image = load_photo(path, _THUMBNAIL)
    except PhotoError:
        return None
    image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
