"""Searches with a known outcome, to fit and to measure `retrieval.ranking.relevance` on.

Galleries of many sizes are drawn from a captioned data set and asked three kinds of query: a
caption, one thing ("a dog"), two things ("dog beach"); one in two has its photo in the gallery.
What the first hits score, and how surely they match, is all that is kept.

Does a hit match? Of the photo that a caption was written for that is certain, but other photos
match it too. For those it is estimated: with s, the highest similarity (cosine of MiniLM sentence
vectors) of the query to a caption of the photo, they match with probability
1 / (1 + exp(−9.5 (s − 0.75))). The two numbers are fitted to `judged_pairs.csv`: 195 pairs of a
caption and a wrong hit, drawn evenly over s and judged by eye, of which 9 % match below s = 0.72,
65 % from there to 0.9 and 93 % above. A photo matches a thing if one of its captions mentions it,
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
FIRST = 10  # hits looked at for each query, as many as `search` shows
_STEEPNESS, _EVEN = 9.5, 0.75
_ASKED = 50  # photos of one gallery that are asked for


@dataclass(frozen=True)
class Material:
    """Photos' embeddings, float32 [n, dim], unit rows, what the ranking takes off each photo's
    cosine, float32 [n], and for each photo its captions."""

    photos: Floats
    bias: Floats
    captions: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Trial:
    """One search. gallery: rows of the material, int64 [size]; target: the row that a caption was
    written for; things: numbers of the concepts that a match has all of; answerable: whether the
    gallery has a certain match."""

    gallery: Ints
    text: str
    kind: Kind
    answerable: bool
    target: int = -1
    things: tuple[int, ...] = ()


@dataclass(frozen=True)
class Hits:
    """The first hits of many searches, one element a hit: arrays [m] of equal length.

    query: the number of the search; score: cosine less bias; mean: of all the gallery's; size:
    photos in it; words: of the query; rank: from 0; match: probability that it matches;
    described: whether it is the very photo that a caption was written for; answerable, kind: of
    the search.
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

    def where(self, chosen: Bools) -> Hits:
        """The chosen hits alone."""
        return Hits(**{name: values[chosen] for name, values in vars(self).items()})


def match_probability(similarity: npt.ArrayLike) -> Doubles:
    """How surely a photo matches, from its captions' highest similarity to the query."""
    s = np.asarray(similarity, np.float64)
    p: Doubles = 1.0 / (1.0 + np.exp(-_STEEPNESS * (s - _EVEN)))
    return p


def concepts() -> dict[str, frozenset[str]]:
    """Things to ask for, each with the words of a caption that mention it."""
    text = (files("retrieval.evaluation") / "concepts.txt").read_text("utf-8")
    found = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, _, others = line.partition(":")
            found[name] = frozenset([*others.split(), name])
    return found


def mentions(captions: Sequence[Sequence[str]], wanted: Mapping[str, frozenset[str]]) -> Bools:
    """Which photo has which thing in its captions: bool [photos, things]."""
    table = np.zeros((len(captions), len(wanted)), np.bool_)
    for row, lines in enumerate(captions):
        text = " ".join(lines).lower()
        words = set(re.findall(r"[a-z\-]+", text))
        for column, (name, accepted) in enumerate(wanted.items()):
            table[row, column] = bool(words & accepted) or (" " in name and name in text)
    return table


def draw_trials(
    material: Material,
    own: Ints,
    others: Ints,
    sizes: Sequence[int],
    queries: int,
    seed: int,
) -> list[Trial]:
    """About `queries` searches of each gallery size.

    own: rows that may be asked for, int64; others: rows that only fill large galleries. Half of
    `own` at most goes into a gallery, so that the other half can be asked for in vain.
    """
    chance = np.random.default_rng(seed)
    names = list(concepts())
    table = mentions(material.captions, concepts())
    trials: list[Trial] = []
    for size in sizes:
        there = min(size, len(own) // 2)
        if size - there > len(others):
            continue
        asked = max(1, min(there // 2, _ASKED))
        for _ in range(max(1, round(queries / (6 * asked)))):
            rows = chance.permutation(own)
            filling = chance.choice(others, size - there, replace=False)
            gallery = np.concatenate([rows[:there], filling.astype(np.int64)])
            for wanted, answerable in ((rows[:asked], True), (rows[there : there + asked], False)):
                for row in wanted:
                    lines = material.captions[row]
                    text = lines[int(chance.integers(len(lines)))]
                    trials.append(Trial(gallery, text, "caption", answerable, int(row)))
                for kind, things in _things(chance, table, gallery, wanted, answerable):
                    text = _phrase(chance, [names[i] for i in things])
                    trials.append(Trial(gallery, text, kind, answerable, things=things))
    return trials


def _things(
    chance: np.random.Generator,
    table: Bools,
    gallery: Ints,
    photos: Ints,
    answerable: bool,
) -> list[tuple[Kind, tuple[int, ...]]]:
    """As many single things and pairs as there are `photos`, all in the gallery or all absent."""
    held = table[gallery]
    batch_size_for = np.flatnonzero(held.any(0) == answerable)
    singles = chance.choice(batch_size_for, min(len(photos), len(batch_size_for)), replace=False)
    found: list[tuple[Kind, tuple[int, ...]]] = [("thing", (int(i),)) for i in singles]
    for row in photos:
        has = np.flatnonzero(table[row])
        if not answerable:  # what one photo elsewhere has, or two things that hardly meet
            has = has if chance.integers(2) else chance.integers(table.shape[1], size=2)
        if len(set(has)) >= 2:
            pair = chance.choice(has, 2, replace=False)
            if held[:, pair].all(1).any() == answerable:
                found.append(("two things", (int(pair[0]), int(pair[1]))))
    return found


def _phrase(chance: np.random.Generator, names: Sequence[str]) -> str:
    if chance.integers(2):
        return " ".join(names)
    return " and ".join(("an " if name[0] in "aeiou" else "a ") + name for name in names)


def ask(material: Material, trials: Sequence[Trial], encode: Encode, sentences: Encode) -> Hits:
    """Run the searches. encode: texts to the model's space; sentences: texts to MiniLM vectors."""
    vectors = _encoded([trial.text for trial in trials], encode)
    table = mentions(material.captions, concepts())
    rows: list[dict[str, Any]] = []
    for number, trial in enumerate(trials):
        scores = material.photos[trial.gallery] @ vectors[trial.text]
        scores -= material.bias[trial.gallery]
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
                    "match": float(table[photo, list(trial.things)].all()),
                    "described": photo == trial.target,
                    "answerable": trial.answerable,
                    "kind": trial.kind,
                    "photo": photo,
                }
            )
    _judge_captions(material, trials, rows, sentences)
    names = Hits.__dataclass_fields__
    return Hits(**{name: np.array([row[name] for row in rows]) for name in names})


def _judge_captions(
    material: Material, trials: Sequence[Trial], rows: list[dict[str, Any]], sentences: Encode
) -> None:
    """Put the match of every hit of a caption right, in place."""
    captions = [row for row in rows if row["kind"] == "caption"]
    texts = {trials[row["query"]].text for row in captions}
    texts.update(*(material.captions[row["photo"]] for row in captions))
    vectors = _encoded(sorted(texts), sentences)
    for row in captions:
        own = np.stack([vectors[text] for text in material.captions[row["photo"]]])
        similarity = float((own @ vectors[trials[row["query"]].text]).max())
        row["match"] = 1.0 if row["described"] else float(match_probability(similarity))


def _encoded(texts: Sequence[str], encode: Encode, batch: int = 512) -> dict[str, Floats]:
    """Every different text with its vector."""
    unique = list(dict.fromkeys(texts))
    found: dict[str, Floats] = {}
    for start in range(0, len(unique), batch):
        part = unique[start : start + batch]
        found.update(zip(part, encode(part), strict=True))
    return found
