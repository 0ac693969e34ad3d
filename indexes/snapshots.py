"""Which version of an index is read: the one that a block of reads holds, else the latest.

A block of reads is one read transaction over the catalogue, with one set of vectors and biases that
belongs to it. Other processes may commit, prune or rebuild meanwhile; the block does not see it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from indexes.catalogue import Catalogue, IndexModel
from indexes.errors import IndexChangedError, IndexReplacedError
from indexes.snapshot import Snapshot

Result = TypeVar("Result")


class Snapshots:
    """The snapshots of an open index, one at a time.

    take: makes the snapshot of a version of the catalogue with this model. model: how the
    embeddings of the catalogue were computed. Another process may change the fusion in it; if it
    changes anything else, a read raises IndexReplacedError.
    """

    def __init__(
        self, folder: Path, catalogue: Catalogue, take: Callable[[int, IndexModel], Snapshot]
    ) -> None:
        self._folder, self._catalogue, self._take = folder, catalogue, take
        self._latest: Snapshot | None = None
        self._held = False
        self.model = catalogue.model()

    @contextmanager
    def hold(self) -> Iterator[Snapshot]:
        """Give the snapshot that everything in the block reads; a nested block joins the outer one.

        A catalogue that was replaced by a rebuild is opened again first. Raises IndexReplacedError
        if the new one has another model.
        """
        if self._held and self._latest is not None:
            yield self._latest
            return
        # The writer's own transaction already shows it one version.
        own = not self._catalogue.database.conn.in_transaction
        if own:
            self._begin()
        self._held = True
        try:
            yield self._current()
        finally:
            self._held = False
            if own:
                self._catalogue.database.end_read()

    def read(self, work: Callable[[], Result]) -> Result:
        """What `work` returns; all that it reads of the index is of one snapshot.

        If what it reads does not fit together although the catalogue is whole, `work` is called
        once more, on a snapshot that is read anew.
        """
        try:
            with self.hold():
                return work()
        except IndexChangedError:
            self._reopen()
            with self.hold():
                return work()

    @property
    def is_held(self) -> bool:
        """Whether a block reads one now."""
        return self._held

    def drop(self) -> None:
        """Free the memory of the latest snapshot; the next read makes another."""
        self._latest = None

    def _begin(self) -> None:
        """Start to read the catalogue that is in the folder now."""
        database = self._catalogue.database
        database.begin_read()
        # Not before: what is replaced from here on is not seen.
        while database.is_replaced():
            database.end_read()
            self._reopen()
            database.begin_read()

    def _current(self) -> Snapshot:
        version = self._catalogue.version()
        if self._latest is None or version != self._latest.version:
            self._latest = None
            self._check_model()
            self._latest = self._take(version, self.model)
        return self._latest

    def _check_model(self) -> None:
        model = self._catalogue.model()
        if replace(model, fusion=self.model.fusion) != self.model:
            raise IndexReplacedError(
                f"The index {self._folder} was rebuilt meanwhile with another model. Run the same "
                "command again; in Python, open the index again."
            )
        self.model = model

    def _reopen(self) -> None:
        """Open the catalogue that is in the folder now."""
        self._latest = None
        self._catalogue.database.reopen()
