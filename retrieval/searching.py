"""The search journey: query → encoder → fusion → index → hits.

Reads an index, never changes it. An encoder is loaded only for terms that need one: a photo that is
in the index already has its embedding there.
"""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
from PIL import Image

from indexes.biases import Biases
from indexes.catalogue import Filter, Photo
from indexes.errors import QueryError
from indexes.index import Index
from retrieval.encoders.base import Encoder
from retrieval.encoders.registry import check_weights
from retrieval.fusion.attention import PHOTO, TEXT, FusedQuery, Fusion
from retrieval.fusion.store import load_fusion
from retrieval.photos.decode import load_photo, photo_from_bytes
from retrieval.photos.files import content_hash, real_path
from retrieval.query import Query, Term
from retrieval.ranking import hybrid, methods, relevance, reranking
from retrieval.ranking.hybrid import CANDIDATES
from retrieval.ranking.methods import Ranked, Ranking
from retrieval.ranking.query_bank import bank, bank_name, kept_bank
from retrieval.ranking.reranking import Rerank

Floats = npt.NDArray[np.float32]

_OWN_CAPTIONS = 10_000  # at most, in the bank that hubs are known by


@dataclass(frozen=True)
class Hit:
    """A photo that was found.

    score: the cosine of query and photo, which the order need not follow (see
    `retrieval.ranking.methods`); relevance: the probability that the photo matches the query, 0 to
    1, None where that is not known (see `retrieval.ranking.relevance`); match: the same by
    `retrieval.ranking.matching`, where hits were re-ranked by it; path: where it is; copies: other places
    with the same content; photo: what is known of it; why: how the score came about.
    """

    rank: int
    score: float
    path: Path
    copies: tuple[Path, ...]
    photo: Photo
    relevance: float | None = None
    why: "Why | None" = None
    match: float | None = None


@dataclass(frozen=True)
class Why:
    """How a score came about. photo: the weight α of what is seen in the photo, the rest is that of
    what is said of it; None where nothing is said. terms: each term's part of the score, in the
    order of the query; together: what belongs to no term alone. All parts sum to the score."""

    photo: float | None
    terms: tuple[float, ...]
    together: float


def search(
    index: Index,
    query: Query,
    k: int,
    encoder: Callable[[], Encoder],
    ranking: str = "auto",
    rerank: Rerank = "none",
) -> list[Hit]:
    """The `k` photos that fit a query best, best first.

    encoder: gives the encoder, called only if a term needs it. ranking: a name of
    `retrieval.ranking.methods`; queries by example photos are ranked plainly whatever it is. rerank:
    'match' orders the first hits anew, see `retrieval.ranking.reranking`.
    Raises QueryError, ModelError (not the index's model) or PhotoError (an example that is no
    photo).
    """
    _check_k(k)
    matching = reranking.matching_for(index, query, rerank)
    chosen = methods.ranking(ranking, index.catalogue.has_captions())
    if any(term.kind == "photo" and term.wanted for term in query.terms):
        chosen = methods.RANKINGS["plain"]  # the bank is of texts, whose cosines are lower
    fused = fused_query(index, query.terms, encoder, chosen)
    vector = fused.vector
    within = _filter(index, query)
    if chosen.expansion:
        first = index.search(vector, chosen.expansion, within)
        rows = index.catalogue.searched([i for i, _ in first], index.made.dim)
        vector = methods.expand(vector, rows) if len(rows) else vector
    bias = _bias(index, chosen, encoder, vector, needed=ranking != "auto")
    if not any(term.kind == "text" for term in query.terms):
        return _like(index, fused, within, k, query.min_score)
    count = k if matching is None else max(k, reranking.FIRST)
    count = max(count, CANDIDATES) if chosen.words else count
    nearest = index.search(vector, count, within, bias, query.min_score)
    by_words = hybrid.ByWords({}, 0.0)
    if chosen.words:
        by_words = hybrid.found_by_words(index, query, within, needed=ranking != "auto")
        found = hybrid.join(index, query, vector, bias, nearest, by_words)
    else:
        found = _ranked(nearest, bias)
    if matching is not None:
        hubs = _bias(index, methods.RANKINGS["nnn"], encoder, vector, needed=True, own=False)
        assert hubs is not None
        found = reranking.rerank(index, matching, vector, hubs, found)
    found = found[:k]
    if chosen.templates or chosen.expansion:  # relevance is known for the words alone
        return _hits(index, found, None if chosen.expansion else fused)
    known = _relevances(index, query, vector, within, found, encoder)
    # Nor is it known for a photo that was found by what is said of it.
    known = {i: p for i, p in known.items() if i not in by_words.scores}
    return _hits(index, found, fused, known)


def _ranked(found: Sequence[tuple[int, float]], bias: Biases | None) -> list[Ranked]:
    """What a search by vectors found, (photo id, cosine) each, ordered by cosine less bias."""
    less = None if bias is None else bias.of(np.array([i for i, _ in found], np.int64))
    off = [0.0] * len(found) if less is None else less.tolist()
    return [Ranked(i, score, score - b) for (i, score), b in zip(found, off, strict=True)]


class _NoBankError(Exception):
    """The bank's embeddings are not at hand, and it would take long to make them."""


def _bias(
    index: Index,
    ranking: Ranking,
    encoder: Callable[[], Encoder],
    query: Floats,
    needed: bool,
    own: bool = True,
) -> Biases | None:
    """What a ranking takes off each photo's cosine for this query; None for nothing.

    Indexing has prepared it, see `prepare_ranking`. Where it has not (an index from elsewhere, made
    by a model that never ran here) and the ranking was not asked for by name, nothing is taken off.
    own: whether the captions of the index join the bank of queries that hubs are known by.
    """
    measure = ranking.bias
    if measure is None:
        return None
    own = own and index.catalogue.has_captions()

    def rows() -> Floats:
        kept = kept_bank(index.made.fingerprint, index.made.dim)
        if kept is None and not needed:
            raise _NoBankError
        generic = bank(encoder()) if kept is None else kept
        if not own:
            return generic
        return np.concatenate([generic, index.catalogue.said_rows(index.made.dim, _OWN_CAPTIONS)])

    if ranking.dynamic:
        (nearest,) = index.search(query, 1) or ((0, 0.0),)
        if nearest[0] not in index.first_hits(rows()):
            return None
    name = f"{measure.__name__.replace('_', '-')}-{bank_name()}" + ("-own" if own else "")
    try:
        return index.biases(name, lambda photos: measure(photos, rows()))
    except _NoBankError:
        return None


def prepare_ranking(index: Index, encoder: Encoder) -> None:
    """Compute what `auto` and relevance need of every photo now, so that searches need not."""
    for own in (False, True):
        ranking = methods.RANKINGS["nnn"]
        _bias(index, ranking, lambda: encoder, np.empty(0, np.float32), needed=True, own=own)


def _relevances(
    index: Index,
    query: Query,
    vector: Floats,
    chosen: Filter,
    found: Sequence[Ranked],
    encoder: Callable[[], Encoder],
) -> dict[int, float]:
    """The relevance of what was found, by photo id: of photos without captions, where it is known
    for such a query and model."""
    text = relevance.calibrated_text(query)
    calibration = relevance.load_calibration(index.made.fingerprint) if text and found else None
    if text is None or calibration is None:
        return {}
    said = index.catalogue.shares([hit.photo for hit in found])
    found = [hit for hit in found if hit.photo not in said]
    nnn = methods.RANKINGS["nnn"]
    bias = _bias(index, nnn, encoder, vector, needed=False, own=False) if found else None
    if bias is None:
        return {}
    ids = [hit.photo for hit in found]
    scores = np.array([hit.cosine for hit in found]) - bias.of(np.array(ids, np.int64))
    around = index.surroundings(vector, chosen)
    around = replace(around, mean=around.mean - float(bias.values.mean()))
    return dict(zip(ids, relevance.relevances(calibration, scores, around, text), strict=True))


def cut(hits: Sequence[Hit], level: relevance.Level) -> list[Hit]:
    """The hits that a level shows; those whose relevance is not known all stay."""
    lowest = relevance.LEVELS[level]
    return [hit for hit in hits if hit.relevance is None or hit.relevance >= lowest]


def similar(index: Index, photo: str, k: int, encoder: Callable[[], Encoder]) -> list[Hit]:
    """The `k` photos most like one, which is itself left out with its exact copies."""
    _check_k(k)
    itself = _indexed(index, photo)
    if itself is None:
        vector = fused_query(index, (Term("photo", photo),), encoder).vector
    else:
        vector = index.catalogue.embedding(itself, index.made.dim)
    return _like(index, FusedQuery.one(vector), Filter(), k, None, itself)


def _like(
    index: Index,
    query: FusedQuery,
    within: Filter,
    k: int,
    lowest: float | None,
    itself: int | None = None,
) -> list[Hit]:
    """The photos that look most like a query of photos alone, by the cosines of what is seen.

    What is said of a photo has a say in whether it is among those that are looked at, but photos
    that are alike are alike whatever is said of them. itself: one to leave out.
    """
    found = index.search(query.vector, max(k + 1, CANDIDATES), within)
    ids = np.array([i for i, _ in found if i != itself], np.int64)
    rows = index.catalogue.seen(ids.tolist(), index.made.dim)
    scores = rows @ query.vector
    order = np.lexsort((ids, -scores))[:k]
    kept = [(int(ids[i]), float(scores[i])) for i in order]
    near = [(i, score) for i, score in kept if lowest is None or score >= lowest]
    return _hits(index, _ranked(near, None), query, seen=True)


def _check_k(k: int) -> None:
    if k < 1:
        raise QueryError(f"k is {k}; ask for at least one photo, as in `-k 10`.")


def fused_query(
    index: Index,
    terms: Sequence[Term],
    encoder: Callable[[], Encoder],
    ranking: Ranking = methods.RANKINGS["plain"],
) -> FusedQuery:
    """The one vector that stands for all terms, and what each is in it.

    ranking: whether texts are put into templates is up to it.
    """
    rows = _term_rows(index, terms, encoder, ranking)
    kinds = [PHOTO if term.kind == "photo" else TEXT for term in terms]
    mixed = len({kind for kind, term in zip(kinds, terms, strict=True) if term.wanted}) > 1
    fusion = load_fusion(index.made.fingerprint, index.made.dim) if mixed else Fusion()
    return fusion.terms(rows, kinds, [t.weight for t in terms], [t.wanted for t in terms])


def _term_rows(
    index: Index, terms: Sequence[Term], encoder: Callable[[], Encoder], ranking: Ranking
) -> Floats:
    """One unit row a term, float32 [n, dim]."""
    rows = np.empty((len(terms), index.made.dim), np.float32)
    texts, photos = [], []
    for position, term in enumerate(terms):
        if term.kind == "text":
            texts.append(position)
            continue
        known = _indexed(index, term.value)
        if known is None:
            photos.append(position)
        else:
            rows[position] = index.catalogue.embedding(known, index.made.dim)
    if photos or texts:
        model = encoder()
        check_weights(index.made, model)
    if photos:
        prepared = [model.prepare(_example(terms[i].value, model.image_size)) for i in photos]
        rows[photos] = model.encode_images(prepared)
    if texts:
        said = [_as_unicode(terms[i].value) for i in texts]
        rows[texts] = methods.templated(ranking, said, model.encode_texts)
    return rows


def _as_unicode(text: str) -> str:
    """Words as typed; bytes that were no UTF-8 (surrogates in Python) become question marks."""
    return text.encode("utf-8", "replace").decode()


def _example(value: str, size: int) -> Image.Image:
    if value == "-":
        return photo_from_bytes(sys.stdin.buffer.read(), size)
    return load_photo(Path(value), size)


def _indexed(index: Index, value: str) -> int | None:
    """The id of the photo that the index knows by this path or this content; None if unknown.

    The path may be one on this machine, or as the index has it, relative to an indexed folder.
    """
    if value == "-":
        return None
    path = Path(value)
    located = index.locate(path)
    if located is not None:
        root, inside = located
        file = index.catalogue.file(root.id, inside)
        if file is not None and file.photo_id is not None:
            try:
                state = path.stat()
            except OSError:
                return file.photo_id
            if (state.st_size, state.st_mtime_ns) == (file.bytes, file.mtime_ns):
                return file.photo_id
    if path.is_file():  # anywhere else, it is known by its content
        try:
            with path.open("rb") as source:
                digest = content_hash(source)
        except OSError:
            return None  # told when it is to be decoded
        return index.catalogue.photo_ids([digest]).get(digest)
    if not path.is_absolute():
        for root in index.roots():
            file = index.catalogue.file(root.id, path.as_posix())
            if file is not None and file.photo_id is not None:
                return file.photo_id
    return None


def _filter(index: Index, query: Query) -> Filter:
    folders = tuple(_folder(index, folder) for folder in query.within)
    return Filter(folders, query.after, query.before)


def _folder(index: Index, folder: Path) -> tuple[int, str]:
    """(root id, path in it) of a folder given from here, or as the index has it."""
    located = index.locate(folder)
    places = [(located[0].id, located[1])] if located else []
    if not folder.is_absolute():
        places += [(root.id, folder.as_posix()) for root in index.roots()]
    for place in places:
        if index.catalogue.knows(*place):
            return place
    raise QueryError(
        f"{folder} is not a part of this index, or has no photos in it. `retrieval info` lists the "
        "indexed folders."
    )


def _hits(
    index: Index,
    found: Sequence[Ranked],
    fused: FusedQuery | None = None,
    known: Mapping[int, float] = MappingProxyType({}),
    seen: bool = False,
) -> list[Hit]:
    """What was found, with where it is.

    fused: the query, where the scores are its cosines; known: relevances by photo id; seen: the
    scores are to what is seen alone.
    """
    roots = {root.id: root.path for root in index.roots()}
    ids = [hit.photo for hit in found]
    photos = index.catalogue.photos(ids)
    shares = {} if seen else index.catalogue.shares(ids)
    why: dict[int, Why] = {}
    if fused is not None and ids:
        rows_of = index.catalogue.seen if seen else index.catalogue.searched
        rows = rows_of(ids, index.made.dim)
        parts, together = rows @ fused.parts.T, rows @ fused.together
        for i, terms, rest in zip(ids, parts.tolist(), together.tolist(), strict=True):
            why[i] = Why(shares.get(i), tuple(terms), rest)
    hits: list[Hit] = []
    for one in found:
        if one.photo not in photos:
            continue  # forgotten by another process since the search
        photo, places = photos[one.photo]
        paths = [
            roots[root_id] / path
            for root_id, path in places
            if root_id in roots and real_path(roots[root_id], path) is not None
        ]
        # A folder may be away while a copy of the photo is not. (exists: an error is a no)
        paths.sort(key=lambda path: not os.path.exists(path))  # noqa: PTH110
        if paths:
            rank = len(hits) + 1
            hit = Hit(rank, one.cosine, paths[0], tuple(paths[1:]), photo)
            p, reason = known.get(one.photo), why.get(one.photo)
            hits.append(replace(hit, relevance=p, why=reason, match=one.match))
    return hits
