"""A query: terms, each a text or an example photo, wanted or unwanted, with a weight; and filters.

It is only what the user asks for: `retrieval.search` turns it into a vector and finds hits.
"""

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from retrieval.errors import QueryError

AnyPath = str | os.PathLike[str]

DEFAULT_KM = 25.0
"""How far from a place `near` looks, in kilometres."""
_MAX_WEIGHT = 1e6
_WEIGHT = re.compile(r"^(?P<value>.*)=(?P<weight>-?[0-9]*\.?[0-9]+)$", re.DOTALL)


@dataclass(frozen=True)
class Term:
    """One part of a query.

    value: a text, or the path of a photo ('-' for standard input, `hash:` and the content hash for
    a photo of the index, wherever it is).
    """

    kind: Literal["text", "photo"]
    value: str
    wanted: bool = True
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not self.value.strip():
            raise QueryError(
                "A query term is empty. Say what to look for: `retrieval search 'a dog'`."
            )
        if not 0 < self.weight <= _MAX_WEIGHT:
            raise QueryError(
                f"The weight {self.weight:g} of '{self.value}' must be above 0 and at most "
                f"{_MAX_WEIGHT:g}. For what you do not want, use --not and --not-image."
            )


@dataclass(frozen=True)
class Query:
    """Terms, and filters on what may be found.

    terms, within and cameras are one or several, kept as tuples.

    within: folders, or photos, to search in; after, before: ISO dates (`after` is included,
    `before` is not); min_score: the lowest cosine to show; near: only photos taken within `near_km`
    kilometres of a place, by its name or as `LATITUDE,LONGITUDE`; place: only photos taken in a
    city, region or country, or in all that commas separate; cameras: names, one of which took the
    photo; captioned: whether the photo has a caption, None for either.
    """

    terms: Sequence[Term]
    within: Sequence[Path] = ()
    after: str | None = None
    before: str | None = None
    min_score: float | None = None
    near: str | None = None
    near_km: float = DEFAULT_KM
    place: str | None = None
    cameras: tuple[str, ...] = ()
    captioned: bool | None = None

    def __post_init__(self) -> None:
        terms = (self.terms,) if isinstance(self.terms, Term) else tuple(self.terms)
        object.__setattr__(self, "terms", terms)
        object.__setattr__(self, "within", tuple(map(Path, as_list(self.within))))
        object.__setattr__(self, "cameras", tuple(as_list(self.cameras)))
        if self.min_score is not None and not math.isfinite(self.min_score):
            raise QueryError(f"The lowest score {self.min_score} is not a number from -1 to 1.")
        if not 0 < self.near_km < math.inf:
            raise QueryError(
                f"A distance of {self.near_km:g} km finds nothing. Ask for more than 0 kilometres, "
                "as in --near Vienna --within 10."
            )
        if not any(term.wanted for term in self.terms):
            raise QueryError(
                "The query asks for nothing. Say what to look for: "
                '`retrieval search "a dog on a beach"`, or give a photo with --image.'
            )


def parse_term(kind: Literal["text", "photo"], text: str, wanted: bool = True) -> Term:
    """A term as written on the command line: `VALUE` or `VALUE=WEIGHT`, as in `at night=0.5`.

    If a photo of that very name exists, as `photo.jpg=2`, it is meant.
    """
    found = _WEIGHT.match(text)
    if found is None or (kind == "photo" and Path(text).exists()):
        return Term(kind, text, wanted)
    return Term(kind, found["value"], wanted, float(found["weight"]))


def as_list(items: AnyPath | Sequence[AnyPath]) -> list[str]:
    """Texts or paths as strings: one alone counts as one item, not as a sequence of letters."""
    if isinstance(items, str | os.PathLike):
        items = [items]
    return [os.fspath(item) for item in items]


def parse_terms(
    texts: str | Sequence[str] = (),
    photos: AnyPath | Sequence[AnyPath] = (),
    not_texts: str | Sequence[str] = (),
    not_photos: AnyPath | Sequence[AnyPath] = (),
) -> tuple[Term, ...]:
    """All terms of a command line: wanted texts, wanted photos, unwanted texts, unwanted photos."""
    return (
        *(parse_term("text", t) for t in as_list(texts)),
        *(parse_term("photo", p) for p in as_list(photos)),
        *(parse_term("text", t, False) for t in as_list(not_texts)),
        *(parse_term("photo", p, False) for p in as_list(not_photos)),
    )


def parse_date(text: str, option: str) -> str:
    """A date as full ISO 8601 local time, from `YYYY`, `YYYY-MM` or `YYYY-MM-DD[THH:MM[:SS]]`.

    option: its name, for the QueryError that is raised if `text` is not a date.
    """
    from datetime import datetime

    for pattern in ("%Y", "%Y-%m", "%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"):
        try:
            return datetime.strptime(text.replace(" ", "T"), pattern).isoformat()
        except ValueError:
            continue
    raise QueryError(f"{option} {text!r} is not a date. Write it as 2024, 2024-05 or 2024-05-17.")
