"""The errors that users meet. Each message says what happened and what to type next.

The command line prints the message alone and exits with 1. The errors of an index on disk are in
`indexes.errors`; all have `RetrievalError` as their base.
"""

from indexes.errors import RetrievalError


class ModelError(RetrievalError):
    """A model cannot be found or loaded, or is not the one that made the index."""


class WeightsMissingError(ModelError):
    """The weights of a model are neither on this machine nor available for download."""


class PhotoError(RetrievalError):
    """A file cannot be used as a photo."""


class DataSetError(RetrievalError):
    """A captioned photo set cannot be used as it is."""


class QueryError(RetrievalError):
    """A query or an option does not make sense."""


class QueryWarning(UserWarning):
    """A part of a query has no effect."""


class UntrustedIndexError(RetrievalError):
    """An index uses folders or a model that the user has not trusted."""
