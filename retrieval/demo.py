"""The demo: real photos that come with other packages, and searches that show what can be asked."""

import shlex
import shutil
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from indexes.errors import RetrievalError
from retrieval import api
from retrieval.output.gallery import GallerySection, write_gallery
from retrieval.query import Query, Term
from retrieval.search.hits import Hit
from retrieval.search.options import SearchOptions

# package → folder in it → photos
_PHOTOS = {
    "skimage": (
        "data",
        "astronaut.png brick.png camera.png chelsea.png clock_motion.png coffee.png coins.png "
        "grass.png gravel.png horse.png hubble_deep_field.jpg ihc.png moon.png motorcycle_left.png "
        "page.png retina.jpg rocket.jpg text.png",
    ),
    "sklearn": ("datasets/images", "china.jpg flower.jpg"),
}

QUERIES = (
    (Term("text", "a cup of coffee on a table"),),
    (Term("text", "a man with a camera"),),
    (Term("text", "an animal"), Term("text", "a cat", wanted=False)),
    (Term("photo", "brick.png"),),
    (Term("photo", "chelsea.png"), Term("text", "a motorcycle")),
)


def copy_demo_photos(folder: Path) -> Path:
    """Copy the demo photos into `folder`, which is made if necessary; returns it.

    Raises RetrievalError if the packages that carry them are not installed.
    """
    sources = []
    for package, (inside, names) in _PHOTOS.items():
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            raise RetrievalError(
                "The demo photos come with scikit-image and scikit-learn: "
                "`pip install 'crossmodal-retrieval[demo]'`, then `retrieval demo` again."
            )
        sources += [Path(spec.origin).parent / inside / name for name in names.split()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for source in sources:
            if source.is_file():  # not every release has every photo
                shutil.copy2(source, folder / source.name)
    except OSError as error:
        raise RetrievalError(
            f"The demo photos cannot be copied to {folder} ({error.strerror}). Name another "
            "folder: `retrieval demo FOLDER`."
        ) from error
    return folder


def run_demo(
    photos: Path, page: Path, queries: Sequence[tuple[Term, ...]] = QUERIES, k: int = 4
) -> Iterator[tuple[str, list[Hit]]]:
    """Search the indexed photos; yields (command, hits) for each query, then writes the gallery.

    command: the command line that asks the same.
    """
    sections = []
    with api.open(photos) as opened:
        for terms in queries:
            placed = tuple(
                Term(t.kind, str(photos / t.value) if t.kind == "photo" else t.value, t.wanted)
                for t in terms
            )
            if _is_one_photo(placed):
                hits = opened.similar(placed[0].value, k)
            else:
                hits = opened.ask(Query(placed), SearchOptions(k))
            sections.append(GallerySection(placed, hits))
            yield _command(photos, placed, k), hits
    write_gallery(page, sections, "retrieval demo", "Real photos of scikit-image and scikit-learn")


def _command(photos: Path, terms: Sequence[Term], k: int) -> str:
    options = {("photo", True): ["--image"], ("text", False): ["--not"]}
    if _is_one_photo(terms):
        words = ["similar", terms[0].value]
    else:
        words = ["search"]
        for term in terms:
            words += [*options.get((term.kind, term.wanted), []), term.value]
    where = str(photos / ".retrieval")
    return shlex.join(["retrieval", *words, "-k", str(k), "--index", where])


def _is_one_photo(terms: Sequence[Term]) -> bool:
    """Whether a query is one photo and nothing else, as `similar` takes it."""
    return len(terms) == 1 and terms[0].kind == "photo"
