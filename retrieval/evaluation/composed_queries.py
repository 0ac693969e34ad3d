"""Composed queries made of captioned photos: 'like this photo, but …'.

An example photo and the words that the caption of another, related photo has beyond all that is
said of the example; that other photo is what is looked for, among all photos, the example included.
Related are photos whose captions share rare words (TF-IDF), so no model has a say in it. Training
and benchmarks make their queries here.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from indexes.arrays import Ints
from retrieval.ranking.lexical import STOP_WORDS

NEIGHBOURS = 5
"""The target is drawn among so many photos nearest to the example."""
_USUAL = 0.2  # words in the captions of a larger share of photos relate nothing
_AT_ONCE = 500


@dataclass(frozen=True)
class Composed:
    """Queries: positions of examples and targets, int64 [n] each, and the n texts."""

    examples: Ints
    targets: Ints
    texts: tuple[str, ...]


def composed_queries(captions: Sequence[Sequence[str]], seed: int, draws: int = 1) -> Composed:
    """At most `draws` queries with each photo as the example; captions: those of each photo.

    A photo of whose drawn neighbour nothing new is said gives none.
    """
    random = np.random.default_rng(seed)
    near = related(captions)
    said = [set(_words(" ".join(texts))) for texts in captions]
    examples, targets, texts = [], [], []
    for example, neighbours in enumerate(near.tolist()):
        for _ in range(draws):
            target = neighbours[random.integers(len(neighbours))]
            caption = captions[target][int(random.integers(len(captions[target])))]
            new = [w for w in _words(caption) if w not in said[example] and w not in STOP_WORDS]
            if new and target != example:
                examples.append(example)
                targets.append(target)
                texts.append(" ".join(new))
    return Composed(np.array(examples, np.int64), np.array(targets, np.int64), tuple(texts))


def related(captions: Sequence[Sequence[str]], count: int = NEIGHBOURS) -> Ints:
    """The photos whose captions are most like each one's, itself left out: int64 [n, count].

    Cosine of TF-IDF with sublinear counts (Manning et al., Introduction to Information Retrieval,
    2008, chapter 6).
    """
    documents = [Counter(_words(" ".join(texts))) for texts in captions]
    seen = Counter(word for document in documents for word in document)
    telling = [w for w, n in seen.items() if 2 <= n <= max(2, _USUAL * len(documents))]
    column = {word: i for i, word in enumerate(telling)}
    rows = np.zeros((len(documents), max(len(column), 1)), np.float32)
    for row, document in zip(rows, documents, strict=True):
        for word, n in document.items():
            if word in column:
                row[column[word]] = np.log1p(n) * np.log(len(documents) / seen[word])
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    count = min(count, len(rows) - 1)
    found = np.empty((len(rows), count), np.int64)
    for start in range(0, len(rows), _AT_ONCE):
        scores = rows[start : start + _AT_ONCE] @ rows.T
        scores[np.arange(len(scores)), np.arange(start, start + len(scores))] = -1
        order = np.argsort(-scores, axis=1, kind="stable")
        found[start : start + _AT_ONCE] = order[:, :count]
    return found


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())
