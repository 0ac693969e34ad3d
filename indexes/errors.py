"""Errors of an index on disk. Each message says what happened and what to type next.

The errors of photos, queries, models and data sets are in `retrieval.errors`.
"""


class RetrievalError(Exception):
    """Base of every error that this project raises on purpose."""


class IndexMissingError(RetrievalError):
    """There is no index where one was expected."""


class IndexDamagedError(RetrievalError):
    """The index cannot be read, or was written by a newer version.

    Only if SQLite's own check has failed does the message advise to delete it.
    """


class FullTextError(IndexDamagedError):
    """The full-text search of the index is damaged; the next run computes it again."""


class IndexReplacedError(RetrievalError):
    """The index was rebuilt by another process while it was open."""


class IndexWarning(UserWarning):
    """A part of an index cannot be used; what was asked for is done without it."""


class IndexChangedError(RetrievalError):
    """What was read of the index did not fit together, though its catalogue is whole."""


class IndexBusyError(RetrievalError):
    """Another process is changing the index."""


class ClusterError(RetrievalError):
    """The vector database of an index on many machines does not answer, or not as it should."""


class StorageError(RetrievalError):
    """A file could not be written, for instance because the disk is full."""
