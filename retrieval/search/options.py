"""How to search: the options that do not belong to the query itself."""

from dataclasses import dataclass

from retrieval.errors import QueryError
from retrieval.ranking import methods
from retrieval.ranking.relevance import LEVELS, Level
from retrieval.ranking.reranking import RERANKINGS, Rerank


@dataclass(frozen=True)
class SearchOptions:
    """k: the most hits to give. ranking: how they are ordered, a name of
    `retrieval.ranking.methods.NAMES`; queries of example photos are ranked by the plain cosine
    whatever it is. rerank: 'match' re-ranks the first 50 hits by how well photo and words match.
    relevance: 'normal' and 'strict' leave out hits below 10% and 30% relevance, if it is known.

    Raises QueryError for an unknown name, or a `k` below 1.
    """

    k: int = 10
    ranking: str = "auto"
    rerank: Rerank = "none"
    relevance: Level = "all"

    def __post_init__(self) -> None:
        if self.k < 1:
            raise QueryError(f"k is {self.k}; ask for at least one photo, as in `-k 10`.")
        methods.ranking(self.ranking)
        if self.rerank not in RERANKINGS:
            raise QueryError(
                f"There is no re-ranking {self.rerank!r}. Choose one of {', '.join(RERANKINGS)}."
            )
        if self.relevance not in LEVELS:
            raise QueryError(
                f"There is no relevance {self.relevance!r}. Choose one of {', '.join(LEVELS)}."
            )
