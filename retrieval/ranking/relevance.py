"""Relevance: from the score of a hit to the probability that the photo matches the words.

The score is that of the default ranking, the cosine less the photo's bias against hubs
(`retrieval.ranking.hubness.nnn_bias`), so relevance falls with rank. What a score means depends on
the model, the length of the query and the number of photos: a small logistic model, fitted on
captioned photos (`retrieval.training.relevance`), takes them into account. Models without such a
fit get no percentage rather than a guessed one.
"""

import json
import re
import stat
from dataclasses import asdict, dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from indexes.arrays import Doubles
from indexes.atomic_write import atomic_write
from indexes.snapshot import GalleryStatistics
from retrieval.query import Query

Level = Literal["strict", "normal", "all"]

# The lowest probability that a level shows; benchmarks/relevance.py has the figures behind it.
LEVELS: dict[Level, float] = {"strict": 0.3, "normal": 0.1, "all": 0.0}
WEAK = 0.15
"""If no hit reaches this probability, the user is told that no photo matches well."""
WORDS_MATCH = 0.9
"""The probability that a photo matches if its captions have every word of a query.

On Flickr8k's val, things that one caption mentions are in other people's captions of that photo,
too: in 92% for one thing, in 87% for two.
"""

_PACKAGED = Path(__file__).parents[1] / "weights"
_ARTICLES = frozenset(("a", "an", "the"))
_FORMAT = 2
_PRIOR_PHOTOS = 20
_MOST_BYTES = 100_000  # of a file
_MOST = 1e6  # of a fitted number; the probability stays a number
_NUMBERS = ("bias", "score", "size", "words", "usual")


@dataclass(frozen=True)
class Calibration:
    """A fitted logistic model: p = 1 / (1 + exp(−t)), with

        t = bias + score · (s − m) + size · ln n + words · ln w
        m = (N · mean + 20 · usual) / (N + 20)

    for a hit of score s and a text of w words (articles not counted), among n photos searched in
    an index of N photos whose mean score for that text is `mean`. `usual` is that mean in the data
    of the fit; the mean of a small index is shrunk towards it. This is Platt's scaling (Platt,
    1999) with two covariates. It assumes, as its fit does, that every second query has its photo
    among those searched.

    fingerprint: of the model's weights, the only ones that the fit is valid for; about: what it
    was fitted on.
    """

    fingerprint: str
    bias: float
    score: float
    size: float
    words: float
    usual: float
    about: dict[str, Any] = field(default_factory=dict)

    def probability(
        self,
        scores: npt.ArrayLike,
        mean: npt.ArrayLike,
        held: npt.ArrayLike,
        searched: npt.ArrayLike,
        words: npt.ArrayLike,
    ) -> Doubles:
        """The probability that each photo matches, float64, in the shape the arguments share.

        scores: cosines less bias; mean: the mean of them over the index; held: photos in the index;
        searched: photos that pass the filters; words: as `count_words` counts them.
        """
        t = (
            self.bias
            + self.score * (np.asarray(scores, np.float64) - background(mean, held, self.usual))
            + self.size * np.log(np.maximum(searched, 1))
            + self.words * np.log(np.maximum(words, 1))
        )
        p: Doubles = 0.5 * (1.0 + np.tanh(0.5 * t))  # the logistic function, without overflow
        return p


def background(mean: npt.ArrayLike, held: npt.ArrayLike, usual: float) -> Doubles:
    """The score of a photo that has nothing to do with a query, float64, in the arguments' shape.

    It is the mean score over the index, shrunk towards the usual one as by 20 photos more.
    """
    photos = np.asarray(held, np.float64)
    m: Doubles = (photos * np.asarray(mean, np.float64) + _PRIOR_PHOTOS * usual) / (
        photos + _PRIOR_PHOTOS
    )
    return m


def count_words(text: str) -> int:
    """The number of words of a query without articles; at least 1."""
    return max(1, sum(word not in _ARTICLES for word in re.findall(r"[^\W_]+", text.lower())))


def calibrated_text(query: Query) -> str | None:
    """The text of a query that relevance is calibrated for: one wanted text alone; else None.

    An example photo, a second text or an unwanted term moves the query, and the meaning of a
    cosine with it.
    """
    (first, *more) = query.terms
    return first.value if first.kind == "text" and first.wanted and not more else None


def relevances(
    calibration: Calibration, scores: npt.ArrayLike, gallery: GalleryStatistics, text: str
) -> list[float]:
    """The probability that each hit matches `text`.

    scores: of the hits, cosines less bias; gallery: its mean is of such scores, too.
    """
    words = count_words(text)
    p = calibration.probability(scores, gallery.mean, gallery.photos, gallery.searched, words)
    return [float(value) for value in p]


def load_calibration(fingerprint: str) -> Calibration | None:
    """The fit for these weights: the one in the package, else the user's own, else None.

    A file that cannot be read, or is for other weights, counts as none.
    """
    for file in (*_packaged_files(), user_calibration_file(fingerprint)):
        calibration = _read(file)
        if calibration is not None and calibration.fingerprint == fingerprint:
            return calibration
    return None


@cache
def _packaged_files() -> list[Path]:
    return sorted(_PACKAGED.glob("*/relevance.json"))


def user_calibration_file(fingerprint: str) -> Path:
    """The file of the user's own fit for a model."""
    import platformdirs

    name = fingerprint if fingerprint.isalnum() else "unknown"
    return platformdirs.user_data_path("crossmodal-retrieval") / "relevance" / f"{name}.json"


def save_calibration(calibration: Calibration, file: Path) -> None:
    """Write a fit as JSON; raises OSError."""
    file.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"format": _FORMAT, **asdict(calibration)}, indent=2) + "\n"
    with atomic_write(file) as temporary:
        temporary.write_text(text, "utf-8")


def _read(file: Path) -> Calibration | None:
    try:
        state = file.stat()
    except OSError:
        return None
    if not stat.S_ISREG(state.st_mode) or state.st_size > _MOST_BYTES:
        return None
    return _parsed(file, state.st_ino, state.st_mtime_ns)


@lru_cache(maxsize=8)  # every search asks
def _parsed(file: Path, inode: int, mtime_ns: int) -> Calibration | None:
    """What a file holds. inode, mtime_ns: those that it has now."""
    try:
        values = json.loads(file.read_text("utf-8"))
        if values["format"] != _FORMAT:
            return None
        numbers = {k: float(values[k]) for k in _NUMBERS}
        about = dict(values["about"])
        fingerprint = str(values["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
    if not all(abs(number) <= _MOST for number in numbers.values()) or numbers["score"] <= 0:
        return None
    return Calibration(fingerprint, **numbers, about=about)
