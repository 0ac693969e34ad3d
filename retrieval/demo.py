"""The demo: real photos that other packages carry, indexed and searched in front of the user."""

import shlex
import shutil
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from indexes.errors import RetrievalError
from retrieval import api
from retrieval.output.gallery import Section, write_gallery
from retrieval.query import Query, Term
from retrieval.search.hits import Hit

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
    """Copy the demo photos into `folder`, made if need be; returns it.

    Raises RetrievalError where the packages that carry them are not installed.
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
            if source.is_file():  # not every release carries every photo
                shutil.copy2(source, folder / source.name)
    except OSError as error:
        raise RetrievalError(
            f"The demo photos cannot be copied to {folder} ({error.strerror}). Name another "
            "folder: `retrieval demo FOLDER`."
        ) from error
    return folder


def run_queries(
    photos: Path, queries: Sequence[tuple[Term, ...]], page: Path, k: int = 4
) -> Iterator[tuple[str, list[Hit]]]:
    """Ask each query; yields (the command that asks it, its hits), then writes the gallery."""
    sections = []
    with api.open(photos) as opened:
        for terms in queries:
            placed = tuple(
                Term(t.kind, str(photos / t.value) if t.kind == "photo" else t.value, t.wanted)
                for t in terms
            )
            if _alone(placed):
                hits = opened.similar(placed[0].value, k)
            else:
                hits = opened.ask(Query(placed), k)
            sections.append(Section(placed, hits))
            yield _command(photos, placed, k), hits
    write_gallery(page, sections, "retrieval demo", "Real photos of scikit-image and scikit-learn")


def _command(photos: Path, terms: Sequence[Term], k: int) -> str:
    options = {("photo", True): ["--image"], ("text", False): ["--not"]}
    if _alone(terms):
        words = ["similar", terms[0].value]
    else:
        words = ["search"]
        for term in terms:
            words += [*options.get((term.kind, term.wanted), []), term.value]
    where = str(photos / ".retrieval")
    return shlex.join(["retrieval", *words, "-k", str(k), "--index", where])


def _alone(terms: Sequence[Term]) -> bool:
    """Whether a query is one photo and nothing else: then it is left out of its own hits."""
    return len(terms) == 1 and terms[0].kind == "photo"
