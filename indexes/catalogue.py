"""The catalogue: all that is known of photos and files, in one SQLite database.

It is the source of truth; everything else in an index can be computed from it. A photo is its
content (its hash), a file is a place where that content was found. Each table has a class of its
own; this one puts them together and holds what concerns several. No paths are opened here, no
vectors compared.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from indexes.arrays import Floats
from indexes.browse import Browse
from indexes.captions import Captions
from indexes.changes import Changes
from indexes.database import FORMAT_VERSION, Database, guarded
from indexes.embeddings import Embeddings
from indexes.facts import FactsOfPhotos
from indexes.files import Files
from indexes.fulltext import FullText
from indexes.meta import Meta
from indexes.notes import Notes
from indexes.photos import Photo, Photos
from indexes.places import any_place
from indexes.roots import Roots
from indexes.rows import MAX_ID, RowError

MAX_DIM = 65_536


@dataclass(frozen=True)
class IndexModel:
    """How every embedding of an index was computed; those of a query have to match.

    name: of the model, as `--model` takes it; fingerprint: a hash of its weights; dim: the length
    of an embedding; fusion: the name of the weights that fuse photos with their captions.
    """

    name: str
    fingerprint: str
    dim: int
    fusion: str


class Catalogue:
    """An open catalogue. Use it as a context manager, or call `close`."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.meta = Meta(database)
        self.roots = Roots(database)
        self.photos = Photos(database)
        self.facts = FactsOfPhotos(database)
        self.files = Files(database)
        self.captions = Captions(database)
        self.full_text = FullText(database, self.captions)
        self.changes = Changes(database, self.meta)
        self.embeddings = Embeddings(database, self.changes)
        self.browse = Browse(database)
        self.notes = Notes(database)

    @classmethod
    def create(cls, folder: Path, model: IndexModel) -> Self:
        """An empty catalogue in `folder`, which has to exist."""
        catalogue = cls(Database.create(folder))
        catalogue._create_tables(model)
        catalogue.database.use_wal()
        return catalogue

    @classmethod
    def open(cls, folder: Path, writable: bool = False, for_repair: bool = False) -> Self:
        """Open the catalogue in `folder`; raises IndexMissingError or IndexDamagedError.

        writable: the caller holds the lock; an older format is upgraded. Opened read-only, an older
        format has no captions, or no embeddings of them. for_repair: writable, and neither
        upgraded nor refused for what a repair mends.
        """
        catalogue = cls(Database.open(folder, writable or for_repair))
        try:
            catalogue._check_columns()
            if writable:
                catalogue._check_ids()
                if catalogue.database.format < FORMAT_VERSION:
                    catalogue._migrate()
        except BaseException:
            catalogue.close()
            raise
        return catalogue

    def close(self) -> None:
        self.database.conn.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def transaction(self) -> AbstractContextManager[None]:
        """All or nothing; a nested transaction joins the outer one."""
        return self.database.transaction()

    @guarded
    def _create_tables(self, model: IndexModel) -> None:
        with self.transaction():
            self.meta.create_table()
            self.roots.create_table()
            self.photos.create_table()
            self.files.create_table()
            self.captions.create_table()
            self.full_text.create_table()
            self.embeddings.create_tables()
            self.changes.create_table()
            self.meta.put("model", model.name)
            self.meta.put("fingerprint", model.fingerprint)
            self.meta.put("dim", str(model.dim))
            self.meta.put("fusion", model.fusion)
            self.database.stamp()

    @guarded
    def _migrate(self) -> None:
        """Bring an older format up to date, in one transaction: a kill leaves the old or the new.

        Format 1 lacks captions, format 2 their embeddings, which the next run of `retrieval index`
        adds. Up to format 3 embeddings were stored in another way.
        """
        with self.transaction():
            found = self.database.format
            if found < 2:
                self.captions.create_table()
                self.full_text.create_table()
            if found < 4:
                self.changes.create_table()
                self.embeddings.migrate_to_4(self.model().dim)
                self.photos.add_columns()
                self.files.migrate()
                self.full_text.migrate()
            self.database.stamp()

    @guarded
    def _check_columns(self) -> None:
        """Raise RowError if a column is computed: reading it could take any time and memory."""
        row = self.database.conn.execute(
            "SELECT s.name, x.name FROM sqlite_schema s, pragma_table_xinfo(s.name) x "
            "WHERE s.type = 'table' AND s.sql NOT LIKE 'CREATE VIRTUAL%' AND x.hidden > 1 LIMIT 1"
        ).fetchone()
        if row:
            raise RowError(f"{row[0]}.{row[1]}: it is computed, which no column of an index is")

    @guarded
    def _check_ids(self) -> None:
        """Raise RowError if the next photo would get an id that no photo may have."""
        for query in (
            "SELECT id FROM photos ORDER BY id DESC LIMIT 1",
            "SELECT seq FROM sqlite_sequence WHERE name = 'photos' LIMIT 1",
        ):
            row = self.database.conn.execute(query).fetchone()
            if row and isinstance(row[0], int) and row[0] >= MAX_ID:
                raise RowError(f"photos.id: {row[0]} is not an id")

    # The whole index ---------------------------------------------------------------------------

    @guarded
    def model(self) -> IndexModel:
        """The model, weights, dimension and fusion behind the embeddings."""
        name, fingerprint = self.meta.get("model"), self.meta.get("fingerprint")
        dim, fusion = self.meta.get("dim"), self.meta.get("fusion")
        if not (dim.isascii() and dim.isdigit() and len(dim) <= 5 and 0 < int(dim) <= MAX_DIM):
            raise RowError(f"meta: the dimension {dim[:20]!r} is not a number from 1 to {MAX_DIM}")
        return IndexModel(name, fingerprint, int(dim), fusion)

    @guarded
    def set_fusion(self, name: str) -> None:
        """Record which weights fused the photos with their captions."""
        with self.transaction():
            self.meta.put("fusion", name)

    @guarded
    def set_fingerprint(self, fingerprint: str) -> None:
        """Record the hash of the model's weights, of an index that was made without them."""
        with self.transaction():
            self.meta.put("fingerprint", fingerprint)

    @guarded
    def setting(self, key: str, default: str) -> str:
        """A setting that is stored in the index, such as what to exclude."""
        return self.meta.get(f"setting:{key}", default)

    @guarded
    def set_setting(self, key: str, value: str) -> None:
        if self.meta.get(f"setting:{key}", "") == value:
            return
        with self.transaction():
            self.meta.put(f"setting:{key}", value)

    @guarded
    def generation(self) -> str:
        """A token that no other catalogue has, nor this one after a rebuild or repair."""
        return self.meta.generation()

    @guarded
    def version(self) -> int:
        """A number that changes whenever another connection commits something."""
        return int(self.database.conn.execute("PRAGMA data_version").fetchone()[0])

    @guarded
    def has_words(self) -> bool:
        """Whether photos have more words than the names of files: captions, or names of places."""
        return self.captions.any() or any_place(self.database)

    @guarded
    def counts(self) -> dict[str, int]:
        """How many photos are on disk and missing, and how many files are photos and skipped."""
        row = self.database.conn.execute(
            "SELECT (SELECT count(*) FROM photos WHERE present), "
            "(SELECT count(*) FROM photos WHERE NOT present), "
            "(SELECT count(*) FROM files WHERE present AND photo_id IS NOT NULL), "
            "(SELECT count(*) FROM files WHERE present AND reason IS NOT NULL)"
        ).fetchone()
        return dict(zip(("photos", "missing", "files", "skipped"), row, strict=True))

    # Changes to several tables -----------------------------------------------------------------

    @guarded
    def add_photos(self, photos: Sequence[Photo], rows: Floats) -> list[int]:
        """Store new photos with their image embeddings, float32 [n, dim]; returns their ids."""
        with self.transaction():
            ids = self.photos.insert(photos)
            self.embeddings.put_images(ids, rows)
        return ids

    @guarded
    def update_presence(self, photos: Sequence[int] | None = None) -> None:
        """Bring photos, captions and full text in line with the files.

        A photo is present while one of its files is. Rows of missing files go if they tell nothing
        more: the photo is present elsewhere (it was moved), or the file never was a photo.

        photos: the ids of those that may be concerned, if they are known and few.
        """
        if photos is not None:
            return self._update_presence_of(photos)
        with self.transaction():
            self.photos.update_all_present()
            self.database.conn.execute(
                "DELETE FROM files WHERE NOT present AND (photo_id IS NULL OR photo_id IN "
                "(SELECT id FROM photos WHERE present))"
            )
            self.captions.delete_leftovers()
            self.full_text.update()

    def _update_presence_of(self, photos: Sequence[int]) -> None:
        with self.transaction():
            self.photos.update_present(photos)
            moved = self.database.rows_of(
                "SELECT root_id, path FROM files WHERE NOT present AND photo_id IN ({marks}) "
                "AND photo_id IN (SELECT id FROM photos WHERE present)",
                photos,
            )
            for table in ("captions", "files"):
                self.database.conn.executemany(
                    f"DELETE FROM {table} WHERE root_id = ? AND path = ?", moved
                )
            self.full_text.update_photos(photos)

    @guarded
    def forget_files(self, root_id: int, path: str) -> int:
        """Remove the files at or below `path`, and photos without a file; returns how many files.

        `update_presence` has to follow.
        """
        with self.transaction():
            count = self.files.delete_below(root_id, path)
            self._forget_photos("id NOT IN (SELECT photo_id FROM files WHERE photo_id IS NOT NULL)")
        return count

    @guarded
    def prune(self) -> int:
        """Remove the photos that are missing from disk; returns how many.

        `update_presence` comes first.
        """
        with self.transaction():
            return self._forget_photos("NOT present")

    def _forget_photos(self, condition: str) -> int:
        chosen = f"(SELECT id FROM photos WHERE {condition})"
        ids = self.database.conn.execute(chosen[1:-1]).fetchall()
        for table in ("said", "fused", "embeddings", "files"):
            self.database.conn.execute(f"DELETE FROM {table} WHERE photo_id IN {chosen}")
        count = self.database.conn.execute(f"DELETE FROM photos WHERE {condition}").rowcount
        if ids:
            self.changes.record(i for (i,) in ids)
        return int(count)

    @guarded
    def forget_root(self, root_id: int) -> None:
        """Remove an indexed folder whose files are all forgotten."""
        with self.transaction():
            self.captions.delete_root(root_id)
            self.roots.delete(root_id)

    @guarded
    def merge_root(self, inner: int, outer: int, prefix: str) -> None:
        """Turn the files of root `inner` into files of `outer`, below `prefix` there."""
        with self.transaction():
            self.files.move_root(inner, outer, prefix)
            self.captions.move_root(inner, outer, prefix)
            self.roots.delete(inner)
