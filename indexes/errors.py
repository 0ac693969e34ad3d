"""The errors that users meet. Each message says what happened and what to type next.

The command line prints the message alone and exits with 1; nothing else is caught there.
"""


class RetrievalError(Exception):
    """Base of every error that this project raises on purpose."""


class IndexMissingError(RetrievalError):
    """There is no index where one was looked for."""


class IndexDamagedError(RetrievalError):
    """The index cannot be read, or was written by a newer version."""


class IndexBusyError(RetrievalError):
    """Another process is changing the index."""


class ModelError(RetrievalError):
    """A model cannot be found, loaded, or is not the one that made the index."""


class PhotoError(RetrievalError):
    """A file cannot be used as a photo."""


class DataSetError(RetrievalError):
    """A captioned photo set cannot be used as it is."""


class QueryError(RetrievalError):
    """A query or an option does not make sense."""


class StorageError(RetrievalError):
    """The disk refused to keep what was written."""
