"""Searches with a known outcome, to fit and to measure `retrieval.ranking.relevance` on.

Galleries of many sizes are drawn from a captioned data set and searched with three kinds of query:
a caption, one thing ("a dog"), two things ("dog beach"). Half of the queries have a match in the
gallery. The scores of the first hits are recorded, with the probability that each hit matches.

Does a hit match? For the photo that a caption was written for this is certain, but other photos
match the caption too. For those it is estimated: with s, the highest similarity (cosine of MiniLM
sentence embeddings) of the query to a caption of the photo, they match with probability
1 / (1 + exp(−9.5 (s − 0.75))). The two numbers are fitted to `judged_pairs.csv`: 195 pairs of a
caption and a wrong hit, drawn evenly over s and judged by eye, of which 9% match below s = 0.72,
65% from there to 0.9 and 93% above. A photo matches a thing if one of its captions mentions it,
by the words of `concepts.txt`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from indexes.arrays import Bools, Doubles, Floats, Ints
from retrieval.ranking.relevance import count_words

Encode = Callable[[Sequence[str]], Floats]
Kind = Literal["caption", "thing", "two things"]

KINDS: tuple[Kind, ...] = ("caption", "thing", "two things")
FIRST = 10  # hits recorded for each query, as many as `search` shows by default
_STEEPNESS, _MIDPOINT = 9.5, 0.75
_TARGETS = 50  # at most, in one gallery


@dataclass(frozen=True)
class RelevanceData:
    """Photos to draw galleries from. photos: embeddings, float32 [n, dim], unit rows; bias: what
    the ranking subtracts from each photo's cosine, float32 [n]; captions: those of each photo."""

    photos: Floats
    bias: Floats
    captions: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Trial:
    """One search. gallery: rows of the data, int64 [size]; target: the row that a caption was
    written for, -1 for other kinds; concepts: the numbers of the concepts that a match must show,
    all of them; answerable: whether the gallery is known to hold a match."""

    gallery: Ints
    text: str
    kind: Kind
    answerable: bool
    target: int = -1
    concepts: tuple[int, ...] = ()


@dataclass(frozen=True)
class TrialHits:
    """The first hits of many searches: arrays [m], one element for each hit.

    query: the number of the search; score: cosine minus bias; mean: the mean score of the gallery;
    size: photos in the gallery; words: in the query; rank: from 0; match: the probability that the
    hit matches; described: whether the query is a caption of this photo; answerable, kind: of the
    search.
    """

    query: Ints
    score: Doubles
    mean: Doubles
    size: Ints
    words: Ints
    rank: Ints
    match: Doubles
    described: Bools
    answerable: Bools
    kind: npt.NDArray[np.str_]

    def where(self, chosen: Bools) -> TrialHits:
        """Only the chosen hits."""
        return TrialHits(**{name: values[chosen] for name, values in vars(self).items()})


def match_probability(similarity: npt.ArrayLike) -> Doubles:
    """The probability that a photo matches, by its captions' highest similarity to the query."""
    s = np.asarray(similarity, np.float64)
    p: Doubles = 1.0 / (1.0 + np.exp(-_STEEPNESS * (s - _MIDPOINT)))
    return p


def load_concepts() -> dict[str, frozenset[str]]:
    """Things to search for, each with the words by which a caption mentions it."""
    text = (files("retrieval.evaluation") / "concepts.txt").read_text("utf-8")
    found = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, _, others = line.partition(":")
            found[name] = frozenset([*others.split(), name])
    return found


def mentions(captions: Sequence[Sequence[str]], concepts: Mapping[str, frozenset[str]]) -> Bools:
    """Which photo has which concept in its captions: bool [photos, concepts]."""
    table = np.zeros((len(captions), len(concepts)), np.bool_)
    for row, lines in enumerate(captions):
        text = " ".join(lines).lower()
        words = set(re.findall(r"[a-z\-]+", text))
        for column, (name, accepted) in enumerate(concepts.items()):
            table[row, column] = bool(words & accepted) or (" " in name and name in text)
    return table


def draw_trials(
    data: RelevanceData,
    targets: Ints,
    fillers: Ints,
    sizes: Sequence[int],
    queries: int,
    seed: int,
) -> list[Trial]:
    """Draw about `queries` searches for each gallery size.

    targets: rows that may be searched for, int64; fillers: rows that only fill large galleries. At
    most half of `targets` goes into a gallery: queries for the other half have no match in it.
    Sizes for which there are too few photos are left out.
    """
    random = np.random.default_rng(seed)
    concepts = load_concepts()
    names = list(concepts)
    table = mentions(data.captions, concepts)
    trials: list[Trial] = []
    for size in sizes:
        inside = min(size, len(targets) // 2)
        if size - inside > len(fillers):
            continue
        count = max(1, min(inside // 2, _TARGETS))
        for _ in range(max(1, round(queries / (6 * count)))):
            rows = random.permutation(targets)
            filling = random.choice(fillers, size - inside, replace=False)
            gallery = np.concatenate([rows[:inside], filling.astype(np.int64)])
            for chosen, answerable in (
                (rows[:count], True),
                (rows[inside : inside + count], False),
            ):
                for row in chosen:
                    lines = data.captions[row]
                    text = lines[int(random.integers(len(lines)))]
                    trials.append(Trial(gallery, text, "caption", answerable, int(row)))
                for kind, numbers in _draw_concepts(random, table, gallery, chosen, answerable):
                    text = _phrase(random, [names[i] for i in numbers])
                    trials.append(Trial(gallery, text, kind, answerable, concepts=numbers))
    return trials


def _draw_concepts(
    random: np.random.Generator,
    table: Bools,
    gallery: Ints,
    photos: Ints,
    answerable: bool,
) -> list[tuple[Kind, tuple[int, ...]]]:
    """As many single concepts and pairs as there are `photos`, all in the gallery or all absent."""
    shown = table[gallery]
    candidates = np.flatnonzero(shown.any(0) == answerable)
    singles = random.choice(candidates, min(len(photos), len(candidates)), replace=False)
    found: list[tuple[Kind, tuple[int, ...]]] = [("thing", (int(i),)) for i in singles]
    for row in photos:
        options = np.flatnonzero(table[row])
        # Without a match: two concepts of one photo outside, or two that rarely occur together.
        if not answerable and not random.integers(2):
            options = random.integers(table.shape[1], size=2)
        if len(set(options)) >= 2:
            pair = random.choice(options, 2, replace=False)
            if shown[:, pair].all(1).any() == answerable:
                found.append(("two things", (int(pair[0]), int(pair[1]))))
    return found


def _phrase(random: np.random.Generator, names: Sequence[str]) -> str:
    if random.integers(2):
        return " ".join(names)
    return " and ".join(("an " if name[0] in "aeiou" else "a ") + name for name in names)


def run_trials(
    data: RelevanceData, trials: Sequence[Trial], encode: Encode, encode_sentences: Encode
) -> TrialHits:
    """Run the searches. encode: texts to the model's shared space; encode_sentences: texts to
    MiniLM sentence embeddings, by which captions are compared."""
    vectors = _encode_unique([trial.text for trial in trials], encode)
    table = mentions(data.captions, load_concepts())
    rows: list[dict[str, Any]] = []
    for number, trial in enumerate(trials):
        scores = data.photos[trial.gallery] @ vectors[trial.text]
        scores -= data.bias[trial.gallery]
        first = np.argsort(-scores, kind="stable")[:FIRST]
        for rank, place in enumerate(first):
            photo = int(trial.gallery[place])
            rows.append(
                {
                    "query": number,
                    "score": float(scores[place]),
                    "mean": float(scores.mean()),
                    "size": len(trial.gallery),
                    "words": count_words(trial.text),
                    "rank": rank,
                    "match": float(table[photo, list(trial.concepts)].all()),
                    "described": photo == trial.target,
                    "answerable": trial.answerable,
                    "kind": trial.kind,
                    "photo": photo,
                }
            )
    _judge_captions(data, trials, rows, encode_sentences)
    names = TrialHits.__dataclass_fields__
    return TrialHits(**{name: np.array([row[name] for row in rows]) for name in names})


def _judge_captions(
    data: RelevanceData, trials: Sequence[Trial], rows: list[dict[str, Any]], encode: Encode
) -> None:
    """Set the match of every hit of a caption, in place."""
    hits = [row for row in rows if row["kind"] == "caption"]
    texts = {trials[row["query"]].text for row in hits}
    texts.update(*(data.captions[row["photo"]] for row in hits))
    vectors = _encode_unique(sorted(texts), encode)
    for row in hits:
        captions = np.stack([vectors[text] for text in data.captions[row["photo"]]])
        similarity = float((captions @ vectors[trials[row["query"]].text]).max())
        row["match"] = 1.0 if row["described"] else float(match_probability(similarity))


def _encode_unique(texts: Sequence[str], encode: Encode, batch: int = 512) -> dict[str, Floats]:
    """Each distinct text with its embedding."""
    unique = list(dict.fromkeys(texts))
    found: dict[str, Floats] = {}
    for start in range(0, len(unique), batch):
        part = unique[start : start + batch]
        found.update(zip(part, encode(part), strict=True))
    return found
