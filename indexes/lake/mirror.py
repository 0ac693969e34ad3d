"""The mirror of a lake: a catalogue on this machine of all that the lake knows but the embeddings.

It is brought up to date part by part, so that facts, captions, words, folders and filters are those
of any other catalogue. It is a cache: if it is lost, it is made again.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import astuple
from pathlib import Path

from indexes.arrays import Floats
from indexes.captions import Caption
from indexes.catalogue import Catalogue, IndexModel
from indexes.database import Database, place_catalogue
from indexes.errors import ClusterError, IndexBusyError, IndexDamagedError, IndexMissingError
from indexes.facts import METADATA_VERSION
from indexes.files import File
from indexes.lake import manifest as manifests
from indexes.lake.location import Location
from indexes.lake.manifest import Manifest, Part
from indexes.lake.read_parts import PartReader, PhotoFacts
from indexes.lake.schema import FACTS, FileRow, photo_id
from indexes.notes import Note, Notes
from indexes.paths import to_sql
from indexes.photos import Photos
from indexes.regular_files import delete_tree

LOCK = "mirror.lock"
_WAIT = 600.0  # seconds, for another process that does the same
_STAGING = "mirror.tmp"
_VERSION = "lake_version"
_MANY_TIMES = 8  # looking at one photo takes as long as passing over so many
_CLASH = "its hash begins as that of another photo in the index, which happens once in billions"

Progress = Callable[[int, int], None]


class MirrorNotes(Notes):
    """Notes of the user's own, of which a mirror has none."""

    def add(self, hashes: Iterable[str], note: Note) -> None:
        raise ClusterError(
            "Captions and keywords of your own cannot be added here to an index on many machines. "
            "Write them into the photos, or into caption files beside them, and index again."
        )

    def remove(self, hashes: Iterable[str], note: Note) -> None:
        self.add(hashes, note)


class MirrorCatalogue(Catalogue):
    """The catalogue of a mirror: which part and row has the embeddings of a photo."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.photos = Photos(database, "lake_photos")
        self.notes = MirrorNotes(database)

    def create_lake_tables(self) -> None:
        """The tables that no other catalogue has."""
        conn = self.database.conn
        conn.execute(
            "CREATE TABLE lake_parts (number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, "
            "rows INTEGER NOT NULL, total BLOB)"
        )
        conn.execute(
            "CREATE TABLE lake_photos (photo_id INTEGER PRIMARY KEY, part INTEGER NOT NULL, "
            "row INTEGER NOT NULL, share REAL, digest BLOB)"
        )
        conn.execute(
            "CREATE INDEX lake_photos_said ON lake_photos (photo_id) WHERE digest NOT NULL"
        )

    def lake_version(self) -> int:
        """The version of the lake that this is a mirror of."""
        text = self.meta.get(_VERSION, "0")
        return int(text) if text.isdigit() and len(text) < 10 else 0

    def parts(self) -> dict[int, str]:
        """The names of the parts that are in, by number."""
        rows = self.database.conn.execute("SELECT number, name FROM lake_parts").fetchall()
        return {int(number): str(name) for number, name in rows}


def update(folder: Path, location: Location, progress: Progress = lambda *_: None) -> Manifest:
    """Bring the mirror in `folder` in line with the newest manifest, which is returned.

    progress: called with how many parts are in, and of how many. Raises IndexMissingError,
    IndexDamagedError, StorageError or IndexBusyError.
    """
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / LOCK, timeout=_WAIT):
            manifest = manifests.latest(location)
            if not _updated(folder, location, manifest, progress):
                _make_again(folder, location, manifest, progress)
            return manifest
    except Timeout:
        raise IndexBusyError(
            f"Another process has been bringing the mirror {folder} up to date for "
            f"{_WAIT:.0f} seconds. Wait until it has finished."
        ) from None


def _updated(folder: Path, location: Location, manifest: Manifest, progress: Progress) -> bool:
    """Add to the mirror what it lacks; False if it has to be made again."""
    try:
        with MirrorCatalogue.open(folder) as catalogue:
            if not catalogue.database.has_table("lake_parts"):
                return False
            known, version = set(catalogue.parts().values()), catalogue.lake_version()
            if not _same_model(catalogue.model(), manifest.model) or version > manifest.version:
                return False
            if version == manifest.version:
                return True
        if known - {part.name for part in manifest.parts}:
            return False  # parts were merged
        with MirrorCatalogue.open(folder, writable=True) as catalogue:
            _fill(catalogue, location, manifest, progress)
        return True
    except IndexMissingError:
        return False
    except IndexDamagedError:
        with suppress(IndexMissingError, IndexDamagedError), MirrorCatalogue.open(folder):
            raise  # the lake is damaged, not the mirror
        return False


def _make_again(folder: Path, location: Location, manifest: Manifest, progress: Progress) -> None:
    staging = folder / _STAGING
    delete_tree(staging)
    staging.mkdir()
    try:
        with MirrorCatalogue.create(staging, manifest.model) as catalogue:
            with catalogue.transaction():
                catalogue.create_lake_tables()
            _fill(catalogue, location, manifest, progress)
            catalogue.database.checkpoint()
        place_catalogue(staging, folder)
        with MirrorCatalogue.open(folder, writable=True) as catalogue:
            catalogue.database.use_wal()
    finally:
        delete_tree(staging)


def _same_model(one: IndexModel, other: IndexModel) -> bool:
    return (one.name, one.fingerprint, one.dim) == (other.name, other.fingerprint, other.dim)


def _fill(
    catalogue: MirrorCatalogue, location: Location, manifest: Manifest, progress: Progress
) -> None:
    """Add the parts that are not in, in their order; each is one transaction."""
    known = set(catalogue.parts().values())
    new = [part for part in manifest.parts if part.name not in known]
    # A file names photos of parts that may stand after it.
    new.sort(key=lambda part: part.kind != "photos")
    left_out: set[int] = set()
    touched: set[int] = set()
    is_sound = catalogue.full_text.is_sound()  # if not, all of it is computed again
    for done, part in enumerate(new, 1):
        with PartReader(location, part, manifest.model.dim) as reader, catalogue.transaction():
            if part.kind == "photos":
                number = _put_part(catalogue, part, reader.sum())
                for some in reader.facts():
                    _put_photos(catalogue, some, number)
                    touched.update(photo.id for photo in some)
            else:
                _put_part(catalogue, part, None)
                for places in reader.files():
                    touched.update(_put_files(catalogue, places))
                    left_out.update(photo_id(row.hash or "") for row in places if _is_removed(row))
        progress(done, len(new))
    with catalogue.transaction():
        if new:
            _forget_photos(catalogue, left_out)
            photos = sum(part.rows for part in manifest.parts if part.kind == "photos")
            few = is_sound and len(touched) * _MANY_TIMES < photos
            catalogue.update_presence(sorted(touched) if few else None)
        for key, value in manifest.settings.items():
            catalogue.meta.put(f"setting:{key}", value)
        catalogue.meta.put("fusion", manifest.model.fusion)
        catalogue.meta.put(_VERSION, str(manifest.version))


def _put_part(catalogue: MirrorCatalogue, part: Part, total: Floats | None) -> int:
    cursor = catalogue.database.conn.execute(
        "INSERT INTO lake_parts (name, rows, total) VALUES (?, ?, ?)",
        [part.name, part.rows, None if total is None else total.tobytes()],
    )
    return int(cursor.lastrowid or 0)


def _put_photos(catalogue: MirrorCatalogue, photos: Sequence[PhotoFacts], part: int) -> None:
    """Later rows of a photo replace earlier ones. Of two photos with one id, the first stays."""
    conn = catalogue.database.conn
    columns = ", ".join(FACTS)
    updates = ", ".join(f"{name} = excluded.{name}" for name in FACTS if name != "hash")
    conn.executemany(
        f"INSERT INTO photos (id, {columns}, metadata_version, present) "
        f"VALUES (?{', ?' * len(FACTS)}, ?, 0) ON CONFLICT (id) DO UPDATE SET {updates} "
        "WHERE hash = excluded.hash",
        [(photo.id, *astuple(photo.photo), METADATA_VERSION) for photo in photos],
    )
    own = _ids(catalogue, (photo.photo.hash for photo in photos))
    conn.executemany(
        "INSERT OR REPLACE INTO lake_photos (photo_id, part, row, share, digest) "
        "VALUES (?, ?, ?, ?, ?)",
        [
            (photo.id, part, photo.row, photo.share, photo.digest)
            for photo in photos
            if photo.photo.hash in own
        ],
    )


def _put_files(catalogue: MirrorCatalogue, rows: Sequence[FileRow]) -> set[int]:
    """Put what is known of files; returns the ids of the photos that they were and are."""
    touched = {photo_id(row.hash) for row in rows if row.hash is not None}
    roots = {absolute: i for i, _, absolute in catalogue.roots.all()}
    known = _ids(catalogue, (row.hash for row in rows if row.hash is not None))
    by_root: dict[str, list[FileRow]] = {}
    for row in rows:
        by_root.setdefault(row.root, []).append(row)
    for root, some in by_root.items():
        root_id = roots[root] if root in roots else catalogue.roots.put("", root)
        latest = {row.path: row for row in some}
        before = f"SELECT photo_id FROM files WHERE root_id = {root_id} AND path IN ({{marks}})"
        earlier = catalogue.database.rows_of(before, map(to_sql, latest))
        touched.update(int(i) for (i,) in earlier if i is not None)
        files = []
        for row in latest.values():
            if _is_removed(row) or (row.reason is not None and not row.present):
                catalogue.database.conn.execute(
                    "DELETE FROM files WHERE root_id = ? AND path = ?", [root_id, to_sql(row.path)]
                )
            elif row.reason is not None:
                files.append(File(row.path, row.bytes, row.mtime_ns, None, row.reason, row.present))
            elif row.hash in known:
                i = known[row.hash]
                files.append(File(row.path, row.bytes, row.mtime_ns, i, None, row.present))
            elif row.hash is not None and _is_taken(catalogue, photo_id(row.hash)):
                files.append(File(row.path, row.bytes, row.mtime_ns, None, _CLASH, row.present))
        catalogue.files.put(root_id, files)
        catalogue.captions.put(
            root_id,
            latest,
            [
                Caption(row.path, origin, text)
                for row in latest.values()
                for origin, text in row.captions
            ],
        )
    return touched


def _ids(catalogue: Catalogue, hashes: Iterable[str]) -> dict[str, int]:
    """The ids of those of the hashes that the mirror has."""
    query = "SELECT hash, id FROM photos WHERE hash IN ({marks})"
    return {str(digest): int(i) for digest, i in catalogue.database.rows_of(query, hashes)}


def _is_taken(catalogue: Catalogue, photo: int) -> bool:
    query = "SELECT 1 FROM photos WHERE id = ?"
    return catalogue.database.conn.execute(query, [photo]).fetchone() is not None


def _is_removed(row: FileRow) -> bool:
    """Whether the user removed a place from the index: see `indexes.lake.schema.removed`."""
    return row.hash is not None and row.reason is not None


def _forget_photos(catalogue: Catalogue, ids: Iterable[int]) -> None:
    """Remove those of the photos that no file names any more."""
    conn = catalogue.database.conn
    named = catalogue.database.rows_of(
        "SELECT photo_id FROM files WHERE photo_id IN ({marks})", ids
    )
    gone = [(i,) for i in set(ids) - {i for (i,) in named}]
    conn.executemany("DELETE FROM lake_photos WHERE photo_id = ?", gone)
    conn.executemany("DELETE FROM photos WHERE id = ?", gone)
