"""Composed queries made from captioned photos: 'like this photo, but …'.

A query is an example photo and the words that a caption of another, related photo adds to all
captions of the example. That other photo is the target, to be found among all photos, the example
included. Related photos are those whose captions share rare words (TF-IDF), so no model takes part
in the choice. Training and benchmarks use the same queries.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from indexes.arrays import Ints
from retrieval.ranking.lexical import STOP_WORDS

NEIGHBOURS = 5
"""The target is drawn from this many photos, the most related to the example."""
_COMMON = 0.2  # words in the captions of a larger share of photos say nothing about relatedness
_BATCH = 500


@dataclass(frozen=True)
class ComposedQueries:
    """Positions of example photos and target photos, int64 [n] each, and the n texts."""

    examples: Ints
    targets: Ints
    texts: tuple[str, ...]


def composed_queries(
    captions: Sequence[Sequence[str]], seed: int, draws: int = 1
) -> ComposedQueries:
    """Draw at most `draws` queries with each photo as the example; captions: those of each photo.

    A draw gives no query if the caption of the related photo adds no word.
    """
    random = np.random.default_rng(seed)
    related_photos = related(captions)
    words = [set(_words(" ".join(texts))) for texts in captions]
    examples, targets, texts = [], [], []
    for example, neighbours in enumerate(related_photos.tolist()):
        for _ in range(draws):
            target = neighbours[random.integers(len(neighbours))]
            caption = captions[target][int(random.integers(len(captions[target])))]
            added = [
                word
                for word in _words(caption)
                if word not in words[example] and word not in STOP_WORDS
            ]
            if added and target != example:
                examples.append(example)
                targets.append(target)
                texts.append(" ".join(added))
    return ComposedQueries(np.array(examples, np.int64), np.array(targets, np.int64), tuple(texts))


def related(captions: Sequence[Sequence[str]], count: int = NEIGHBOURS) -> Ints:
    """For each photo the others with the most similar captions, best first: int64 [n, count].

    Cosine of TF-IDF with sublinear counts (Manning et al., Introduction to Information Retrieval,
    2008, chapter 6).
    """
    documents = [Counter(_words(" ".join(texts))) for texts in captions]
    frequency = Counter(word for document in documents for word in document)
    informative = [w for w, n in frequency.items() if 2 <= n <= max(2, _COMMON * len(documents))]
    column = {word: i for i, word in enumerate(informative)}
    rows = np.zeros((len(documents), max(len(column), 1)), np.float32)
    for row, document in zip(rows, documents, strict=True):
        for word, n in document.items():
            if word in column:
                row[column[word]] = np.log1p(n) * np.log(len(documents) / frequency[word])
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    count = min(count, len(rows) - 1)
    found = np.empty((len(rows), count), np.int64)
    for start in range(0, len(rows), _BATCH):
        scores = rows[start : start + _BATCH] @ rows.T
        scores[np.arange(len(scores)), np.arange(start, start + len(scores))] = -1
        order = np.argsort(-scores, axis=1, kind="stable")
        found[start : start + _BATCH] = order[:, :count]
    return found


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())
