"""What the parts of a lake hold: the columns of photos and of files, and the id of a photo.

The columns are plain, so that DuckDB, pandas and others read them. Nothing is written here.
"""

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from indexes.arrays import Floats
from indexes.photos import Photo
from indexes.rows import MAX_ID

if TYPE_CHECKING:
    import pyarrow as pa

"""The columns of embeddings: of the image, of its captions, and of both fused."""
FACTS = tuple(field.name for field in fields(Photo))
"""The columns that make a `Photo`."""
_WHOLE, _REAL = ("width", "height"), ("latitude", "longitude")


@dataclass(frozen=True)
class PhotoRow:
    """One photo of a lake.

    seen, said, fused: unit vectors, float32 [dim], of the image, of its captions, and of both
    fused; the last two are None without captions. digest: of the texts behind `said`. share: the
    image's weight in `fused`. captions: the texts, for readers of the lake.
    """

    photo: Photo
    seen: Floats
    said: Floats | None = None
    digest: bytes | None = None
    fused: Floats | None = None
    share: float | None = None
    captions: tuple[str, ...] = ()

    @property
    def id(self) -> int:
        return photo_id(self.photo.hash)


@dataclass(frozen=True, slots=True)
class FileRow:
    """One place of a lake: a photo (`hash`), or the `reason` why it is none.

    root: the indexed folder or URL; path: inside it; present: False once it is gone; captions:
    (origin, text), as `indexes.captions.Caption` has them. A file that the user removed from the
    index is not present, and has both a hash and a reason: see `removed`.
    """

    root: str
    path: str
    bytes: int
    mtime_ns: int
    hash: str | None = None
    reason: str | None = None
    present: bool = True
    captions: tuple[tuple[str, str], ...] = ()


def removed(row: FileRow) -> FileRow:
    """The row that makes an index forget a place: the photo is not missing, but unknown."""
    return replace(row, reason=row.reason or "removed", hash=row.hash or "", present=False)


def photo_id(content_hash: str) -> int:
    """The id of a photo in a lake: the first 62 bits of its hash, from 1.

    Among a billion photos, the chance that any two share an id is one in nine. For what is no
    hexadecimal hash (of imported photos), the text itself is hashed.
    """
    from blake3 import blake3

    try:
        number = int(content_hash[:16], 16)
    except ValueError:
        number = int(blake3(content_hash.encode("utf-8", "surrogatepass")).hexdigest()[:16], 16)
    return min((number >> 2) + 1, MAX_ID)


def photos_schema(dim: int) -> "pa.Schema":
    """The columns of a part of photos."""
    import pyarrow as pa

    def kind(name: str) -> Any:
        return pa.int32() if name in _WHOLE else pa.float64() if name in _REAL else pa.string()

    vector = pa.list_(pa.float16(), dim)
    return pa.schema(
        [
            pa.field("id", pa.int64(), nullable=False),
            *(pa.field(name, kind(name)) for name in FACTS),
            pa.field("captions", pa.list_(pa.string())),
            pa.field("seen", vector, nullable=False),
            pa.field("said", vector),
            pa.field("digest", pa.binary()),
            pa.field("fused", vector),
            pa.field("share", pa.float32()),
        ]
    )


def files_schema() -> "pa.Schema":
    """The columns of a part of files. path_bytes: of a path that is not UTF-8."""
    import pyarrow as pa

    caption = pa.struct([pa.field("origin", pa.string()), pa.field("text", pa.string())])
    return pa.schema(
        [
            pa.field("root", pa.string(), nullable=False),
            pa.field("path", pa.string(), nullable=False),
            pa.field("path_bytes", pa.binary()),
            pa.field("bytes", pa.int64(), nullable=False),
            pa.field("mtime_ns", pa.int64(), nullable=False),
            pa.field("hash", pa.string()),
            pa.field("reason", pa.string()),
            pa.field("present", pa.bool_(), nullable=False),
            pa.field("captions", pa.list_(caption)),
        ]
    )
