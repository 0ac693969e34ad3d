"""From a request of the API to hits: the query is asked once, and its hits are given page by page.

What was ranked is kept for a while under the token of its cursor, so that scrolling is consistent
and cheap. The engine of `retrieval.search` does the ranking.
"""

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from indexes.index import Index
from indexes.photos import Filter
from retrieval.encoders.base import Encoder
from retrieval.errors import QueryError
from retrieval.query import Query, Term, parse_date
from retrieval.ranking.methods import Candidate
from retrieval.ranking.relevance import LEVELS, WEAK
from retrieval.search import pipeline, places
from retrieval.search.hits import Explanation, explanations
from retrieval.search.options import SearchOptions
from retrieval.search.state import Search
from retrieval.server import models
from retrieval.server.browsing import folder_places
from retrieval.server.options import LIMITS
from retrieval.server.shown import Shown

_DEEPER = 10  # times as deep when the hits run out
_SORTED = 2000  # hits that are sorted by date
_KEPT = 64  # rankings
_JUDGED = 10  # hits that tell whether any photo matches well


@dataclass(frozen=True)
class Asked:
    """A request in the words of the engine. query: None without terms; left_out: content hashes."""

    query: Query | None
    filters: models.Filters
    options: SearchOptions
    by_date: bool
    left_out: frozenset[str]


@dataclass(frozen=True)
class Ranked:
    """What a request found. ids: of the photos in order; search: how they were ranked, None
    without terms; known: the candidates by photo id; complete: whether a deeper search would find
    no more."""

    ids: tuple[int, ...]
    complete: bool
    depth: int
    search: Search | None = None
    known: dict[int, Candidate] = field(default_factory=dict)


class Searches:
    """The rankings that were asked for last. It may be used from many threads at once."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Ranked] = OrderedDict()
        self._shown = Shown()
        self._lock = threading.Lock()

    def page(
        self,
        index: Index,
        request: models.SearchRequest,
        example: Callable[[str], str],
        encoder: Callable[[], Encoder],
    ) -> models.SearchResponse:
        """A page of hits.

        example: from the id of an uploaded photo to the path of its file. Raises QueryError,
        ModelError or PhotoError.
        """
        started = time.perf_counter()
        asked = index.read(lambda: translate(index, request, example))
        token, offset = _parse_cursor(request.cursor)
        ranked = self._kept.get(token)
        while True:
            end = offset + request.k
            if ranked is None:
                ranked = rank(index, asked, encoder, min(end + 1, LIMITS.depth))
            elif len(ranked.ids) < end and not ranked.complete:
                ranked = _deeper(index, asked, encoder, ranked)
            else:
                break
        ids = ranked.ids[offset:end]
        hits = index.read(lambda: _hits(index, self._shown, ranked, ids, offset, request.explain))
        more = len(ranked.ids) > end or not ranked.complete
        if more:
            self._keep(token, ranked)
        return models.SearchResponse(
            hits=hits,
            next=f"{token}.{end}" if more else None,
            verdict=_verdict(ranked),
            likely=LEVELS["normal"],
            seconds=round(time.perf_counter() - started, 4),
        )

    def explain(
        self,
        index: Index,
        request: models.SearchRequest,
        photo: str,
        example: Callable[[str], str],
        encoder: Callable[[], Encoder],
    ) -> models.Explanation | None:
        """How the score of a photo, by its content hash, is computed; None if it has none."""
        asked = index.read(lambda: translate(index, request, example))
        number = index.catalogue.photos.ids([photo]).get(photo)
        if asked.query is None or number is None:
            return None
        how = pipeline.explain(index, asked.query, asked.options, encoder, number)
        return None if how is None else api_explanation(how)

    def _keep(self, token: str, ranked: Ranked) -> None:
        with self._lock:
            self._kept[token] = ranked
            self._kept.move_to_end(token)
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)


def translate(index: Index, request: models.SearchRequest, example: Callable[[str], str]) -> Asked:
    """A request as the engine takes it; raises QueryError for a date or folder that is none."""
    filters = request.filters
    terms = tuple(
        Term("text", term.text or "", term.wanted, term.weight)
        if term.kind == "text"
        else Term(
            "photo",
            f"hash:{term.id}" if term.kind == "photo" else example(term.id or ""),
            term.wanted,
            term.weight,
        )
        for term in request.terms
    )
    named = [term.id for term in request.terms if term.kind == "photo" and term.id]
    known = index.catalogue.photos.ids(named)
    if unknown := set(named) - set(known):
        raise QueryError(f"The photo {min(unknown)[:12]}… is not in this index.")
    after = parse_date(filters.after, "after") if filters.after else None
    before = parse_date(filters.before, "before") if filters.before else None
    if terms:
        query = Query(
            terms,
            within=_folders(index, filters.folders),
            after=after,
            before=before,
            min_score=request.min_score,
            near=filters.near or None,
            near_km=filters.near_km,
            place=filters.place or None,
            cameras=tuple(filters.cameras),
            captioned=filters.captioned,
        )
    left_out = frozenset(named) if request.leave_out_examples else frozenset[str]()
    return Asked(
        query if terms else None,
        filters.model_copy(update={"after": after, "before": before}),
        SearchOptions(1, request.ranking, request.rerank, request.relevance),
        request.sort == "date",
        left_out,
    )


def _folders(index: Index, ids: Sequence[str]) -> tuple[Path, ...]:
    """The paths of folders that the API names."""
    if not ids:
        return ()
    roots = {root.id: root.path for root in index.roots()}
    return tuple(roots[root_id] / path for root_id, path in folder_places(index, ids))


def rank(index: Index, asked: Asked, encoder: Callable[[], Encoder], depth: int) -> Ranked:
    """The photos that a request finds, in order, at least `depth` if there are so many."""
    if asked.query is None:
        return index.read(lambda: _newest(index, asked.filters))
    if asked.by_date:
        depth = max(depth, _SORTED)
    left_out = set(index.catalogue.photos.ids(asked.left_out).values())
    options = replace(asked.options, k=depth + len(left_out))
    search = pipeline.candidates(index, asked.query, options, encoder)
    found = [c for c in search.candidates if c.photo not in left_out]
    lowest = LEVELS[asked.options.relevance]
    ids = [c.photo for c in found if search.relevance.get(c.photo, 1.0) >= lowest]
    # Below the lowest relevance there is nothing more, since relevance falls with rank.
    complete = len(search.candidates) < options.k or len(ids) < len(found)
    if asked.by_date:
        dates = index.catalogue.browse.dates(ids)
        ids.sort(key=lambda i: (dates.get(i, ""), i), reverse=True)
        complete = True
    return Ranked(
        tuple(ids),
        complete or depth >= LIMITS.depth,
        depth,
        replace(search, candidates=()),
        {c.photo: c for c in found},
    )


def _deeper(index: Index, asked: Asked, encoder: Callable[[], Encoder], known: Ranked) -> Ranked:
    """The same with more photos behind those that are known, whose order stays."""
    found = rank(index, asked, encoder, min(known.depth * _DEEPER, LIMITS.depth))
    before = set(known.ids)
    ids = (*known.ids, *(i for i in found.ids if i not in before))
    return replace(found, ids=ids, known=found.known | known.known)


def _newest(index: Index, filters: models.Filters) -> Ranked:
    """All photos that pass the filters, the latest first."""
    chosen = Filter(
        tuple(folder_places(index, filters.folders)),
        filters.after,
        filters.before,
        (*places.point(filters.near), filters.near_km) if filters.near else None,
        places.names(filters.place) if filters.place else (),
        cameras=tuple(filters.cameras),
        captioned=filters.captioned,
    )
    ids = index.catalogue.browse.newest_first().tolist()
    if chosen != Filter():
        allowed = set(index.catalogue.photos.matching(chosen).tolist())
        ids = [i for i in ids if i in allowed]
    return Ranked(tuple(ids), True, len(ids))


def _hits(
    index: Index, shown: Shown, ranked: Ranked, ids: Sequence[int], offset: int, explain: bool
) -> list[models.Hit]:
    """The photos of a page as hits; those that are no longer in the index are left out."""
    known = shown.hits(index, ids)
    search, explained = ranked.search, dict[int, Explanation]()
    if search is not None and explain:
        candidates = tuple(ranked.known[i] for i in ids if i in known)
        explained = explanations(replace(search, index=index, candidates=candidates))
    hits = []
    for rank, i in enumerate(ids, offset + 1):
        if i not in known:
            continue
        how, found = explained.get(i), ranked.known.get(i)
        hits.append(
            known[i].model_copy(
                update={
                    "rank": rank,
                    "score": None if found is None else round(found.cosine, 6),
                    "relevance": None if search is None else _rounded(search.relevance.get(i)),
                    "match": None if found is None else _rounded(found.match),
                    "explanation": None if how is None else api_explanation(how),
                }
            )
        )
    return hits


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def api_explanation(how: Explanation) -> models.Explanation:
    """How a score was computed, as the API gives it."""
    return models.Explanation(
        photo_weight=how.photo_weight, terms=list(how.terms), together=how.joint
    )


def _verdict(ranked: Ranked) -> models.Verdict:
    if not ranked.ids:
        return "none"
    known = {} if ranked.search is None else ranked.search.relevance
    first = [known.get(i) for i in ranked.ids[:_JUDGED]]
    best = max((p for p in first if p is not None), default=None)
    if best is None or (best < WEAK and None in first):
        return "unknown"
    return "good" if best >= WEAK else "weak"


def _parse_cursor(cursor: str | None) -> tuple[str, int]:
    """The token of a ranking and the number of hits that were given."""
    token, _, offset = (cursor or f"{secrets.token_urlsafe(12)}.0").partition(".")
    if not token or not (offset.isascii() and offset.isdigit() and int(offset) < LIMITS.depth):
        raise QueryError("The cursor is not one that this server gave.")
    return token, int(offset)
