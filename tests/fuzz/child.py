"""The process that reads damaged files: it may crash, hang or grow, and its parent watches it.

It is given lines of JSON, [target, folder], and answers each with a line: what went wrong, or null.
Errors of `retrieval` are the right answer to a damaged file; any other exception is a fault.
"""

import faulthandler
import json
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

import retrieval


class Reader:
    """Reads cases as users would. seeds: whole files, with the model of the folders."""

    def __init__(self, seeds: Path) -> None:
        self._encoder = retrieval.load_encoder(str(seeds / "model"))
        self.targets: dict[str, Callable[[Path], None]] = {
            "photos": self.index_folder,
            "captions": self.index_folder,
            "set": read_set,
            "index": self.search_index,
            "check": self.repair_index,
            "model": load_model,
            "checkpoint": load_checkpoint,
            "weights": load_weights,
        }

    def index_folder(self, folder: Path) -> None:
        """Index a folder: whatever is in it, the whole photo has to be found."""
        lists = sorted(folder.glob("captions.csv"))
        retrieval.index(folder, model=self._encoder, options=retrieval.Options(captions=lists))
        with retrieval.open(folder, trust=True) as photos:
            photos.status()
            found = {hit.path.name for hit in photos.similar(folder / "good.jpg", k=50)}
            found |= {hit.path.name for hit in photos.search("a temple", k=50)}
        assert "good.jpg" in found, found

    def search_index(self, folder: Path) -> None:
        """All that a search does, and a run that brings the index up to date."""
        attempt(lambda: search(folder))
        attempt(lambda: retrieval.index(folder, trust=True))
        attempt(lambda: retrieval.fuse(folder, trust=True))
        attempt(lambda: search(folder))

    def repair_index(self, folder: Path) -> None:
        """A repair that says that all is whole now has to be right."""
        attempt(lambda: retrieval.check(folder))
        if not retrieval.check(folder, repair=True).is_whole:
            return
        assert retrieval.check(folder).is_whole
        try:
            retrieval.index(folder, trust=True)
            search(folder)
        except retrieval.IndexDamagedError as error:
            raise AssertionError("damaged after a repair") from error
        report = retrieval.check(folder)
        assert report.is_whole, report.problems


def search(folder: Path) -> None:
    with retrieval.open(folder, trust=True) as photos:
        attempt(photos.status)
        for ranking in ("auto", "nnn", "hybrid", "plain"):
            attempt(lambda ranking=ranking: photos.search("a temple", ranking=ranking))
        attempt(lambda: photos.similar(folder / "china.jpg"))
        hits = photos.search("a temple", after="2000", relevance="normal", rerank="match")
        section = retrieval.GallerySection([], hits)
        retrieval.write_gallery(folder / "page.html", [section])


def attempt(action: Callable[[], object]) -> None:
    """Do it; an error that users are told is right."""
    try:
        action()
    except retrieval.RetrievalError as error:
        assert str(error).strip()


def read_set(folder: Path) -> None:
    from retrieval.datasets.captioned import read_captioned

    for file in folder.iterdir():
        if file.suffix != ".jpg":
            attempt(lambda file=file: read_captioned(file, images=folder))


def load_model(name: object, engine: str = "auto") -> None:
    encoder = retrieval.load_encoder(str(name), compute=retrieval.Compute(engine))
    rows = encoder.encode_texts(["a temple", "", "an \N{COLLISION SYMBOL} " * 99])
    size = encoder.image_size
    photos = encoder.encode_images([np.full((size, size, 3), value, np.uint8) for value in (0, 99)])
    assert np.isfinite(rows).all() and np.isfinite(photos).all()


def load_checkpoint(folder: Path) -> None:
    load_model(f"local-dir:{folder}", "torch")  # converting a model takes seconds


def load_weights(folder: Path) -> None:
    """The user's own fusion, matching and relevance, and the cached bank of generic queries."""
    from retrieval.fusion.attention import PHOTO, TEXT
    from retrieval.fusion.store import read_fusion
    from retrieval.ranking import matching, query_bank, relevance

    rows = np.eye(2, 384, dtype=np.float32)

    def fuse() -> None:
        fusion = read_fusion(folder / "fusion.safetensors")
        dim = fusion.photo.look.shape[1]
        fused, weights = fusion.photos(rows[:, :dim], rows[::-1, :dim])
        assert np.isfinite(fused).all() and np.isfinite(weights).all()
        terms = fusion.terms(rows[:, :dim], (PHOTO, TEXT), (1.0, 0.5), (True, True))
        assert np.isfinite(terms.vector).all()
        match = matching.read_matching(folder / "fusion.matching.safetensors", fusion)
        residual = match.residual(rows, rows[::-1])
        assert np.isfinite(match.probability(residual)).all()

    attempt(fuse)
    fit = relevance._read(folder / "relevance.json")
    if fit is not None:
        p = fit.probability([0.1, -1.0, 1.0], 0.1, 1000, 10, 3)
        assert np.isfinite(p).all()
    for bank in folder.glob("bank-*.npy"):  # unless a damaged folder has lost it
        query_bank._read(bank, 384)


def main() -> None:
    """Answer until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # nothing that a library prints is an answer
    faulthandler.enable()
    warnings.simplefilter("ignore")
    reader = Reader(Path(sys.argv[1]))
    for line in sys.stdin:
        target, folder = json.loads(line)
        wrong = None
        try:
            reader.targets[target](Path(folder))
        except retrieval.RetrievalError as error:
            assert str(error).strip()
        except BaseException:
            wrong = traceback.format_exc()
        answers.write(json.dumps(wrong) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
