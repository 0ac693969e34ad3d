"""Recall@k of an index as it is: each of its captions is searched for in it.

Nothing is encoded but the captions, and nothing is compared but what the index finds, wherever its
vectors are. Recall of models on data sets: `benchmarks.recall`.
"""

import time
from collections.abc import Callable, Sequence

import numpy as np

from benchmarks.recall import IndexQuality, RecallOptions, Run
from indexes.arrays import Floats
from indexes.index import Index
from indexes.photos import Filter
from retrieval.api import find_index
from retrieval.datasets.captioned import CaptionedPhoto, CaptionedSet
from retrieval.datasets.embedding_cache import open_embedding_cache
from retrieval.encoders.base import Encoder
from retrieval.encoders.registry import check_weights, load_encoder
from retrieval.errors import DataSetError, QueryError
from retrieval.evaluation.bootstrap import summarise
from retrieval.evaluation.metrics import Ranks, rank
from retrieval.indexing.trust import check_trust
from retrieval.ranking import methods
from retrieval.ranking.hub_bias import ranking_bias

RANKINGS = ("plain", "nnn")
_FOUND = 100  # hits that are asked for; a photo that is not among them counts as the last


def measure(
    where: str,
    options: RecallOptions = RecallOptions(),
    log: Callable[[str], None] = lambda _: None,
) -> list[Run]:
    """One run for each ranking. where: an index, as for `retrieval.open`.

    Photos are found by captions, and not captions by photos. Raises RetrievalError.
    """
    if wrong := [name for name in options.rankings if name not in RANKINGS]:
        raise QueryError(
            f"An index as it is cannot be measured with the ranking {wrong[0]!r}. Choose from: "
            f"{', '.join(RANKINGS)}."
        )
    if options.direction == "image-to-text" or list(options.index_types) != ["exact"]:
        raise QueryError(
            "An index as it is has one kind of vectors, and its photos are found. Leave out "
            "--direction and --index-type."
        )
    with Index.open(find_index(where)) as index:
        check_trust(index)
        encoder = load_encoder(index.model.name, log)
        check_weights(index.model, encoder)
        ids, used = _captioned(index, where)
        log(f"{used.name}: {len(used.photos):,} photos, {len(used.captions):,} captions")
        with open_embedding_cache(encoder, lambda *_: None) as cache:
            texts = cache.texts(used.captions)
        encoded = texts.encoded
        runs = []
        for name in options.rankings:
            started = time.perf_counter()
            ranks = _ranks(index, methods.RANKINGS[name], encoder, texts.rows, ids, used)
            kind = index.vectors()
            runs.append(
                Run(
                    captioned=used,
                    model=index.model.name,
                    fingerprint=index.model.fingerprint,
                    ranking=name,
                    ranks={"text_to_image": ranks},
                    measured={"text_to_image": summarise(ranks)},
                    index_type="exact" if kind is None else kind.kind,
                    indexes=dict[str, IndexQuality](),
                    encoded=(0, encoded),
                    seconds=time.perf_counter() - started,
                )
            )
            encoded = 0
    return runs


def _captioned(index: Index, where: str) -> tuple[Sequence[int], CaptionedSet]:
    """The ids of the photos on disk that have captions, and these photos."""
    catalogue = index.catalogue
    there = index.filter_ids(
        [i for ids in catalogue.photos.id_ranges() for i in catalogue.captions.of_photos(ids)],
        Filter(captioned=True),
    )
    if not there:
        raise DataSetError(f"No photo of {where} has a caption, so none can be searched for.")
    captions = catalogue.captions.of_photos(there)
    roots = {root.id: root.path for root in index.roots()}
    photos = []
    for i, (_, places) in catalogue.photos.get(there).items():
        root_id, path = places[0]
        photos.append(CaptionedPhoto(path, tuple(captions[i]), None, roots[root_id], path))
    return there, CaptionedSet(where, "all", tuple(photos))


def _ranks(
    index: Index,
    ranking: methods.Ranking,
    encoder: Encoder,
    queries: Floats,
    ids: Sequence[int],
    used: CaptionedSet,
) -> Ranks:
    places = {photo: place for place, photo in enumerate(ids)}

    def scores(part: slice) -> Floats:
        found = np.full((len(queries[part]), len(ids)), -np.inf, np.float32)
        for line, query in enumerate(queries[part]):
            bias = ranking_bias(index, ranking, query, lambda: encoder)
            hits = index.search(query, _FOUND, Filter(captioned=True), bias)
            known = np.array([i for i, _ in hits], np.int64)
            values = np.array([score for _, score in hits], np.float32)
            if bias is not None:
                values = values - bias.of(known)
            found[line, [places[i] for i in known.tolist()]] = values
        return found

    return rank(scores, np.array(used.owners), np.arange(len(ids)))
