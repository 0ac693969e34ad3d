"""The bank of generic queries, which the rankings against hubs measure each photo by.

Its 1,000 sentences come from no data set (see retrieval/training/query_bank.py), so the bank shares
nothing with what is searched or evaluated. They are encoded once for each model: the embeddings by
`mini` are shipped, those by other models are stored in the user's cache folder.
"""

from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np

from indexes.arrays import Array, Floats
from indexes.atomic_write import atomic_write
from retrieval.encoders.base import Encoder

QUERIES = Path(__file__).parent / "generic_queries.txt"
SHIPPED = Path(__file__).parents[1] / "weights" / "mini"
_BATCH = 256


@cache
def generic_queries() -> tuple[str, ...]:
    """The sentences, each once."""
    return tuple(QUERIES.read_text(encoding="utf-8").splitlines())


def load_bank(fingerprint: str, dim: int) -> Floats | None:
    """The stored embeddings of the bank by a model, float32 [1000, dim], unit rows; else None."""
    name = _file_name(fingerprint)
    folder = SHIPPED if (SHIPPED / name).exists() else _cache_folder()
    return _read(folder / name, dim)


def bank_embeddings(encoder: Encoder) -> Floats:
    """The embeddings of the bank, float32 [1000, dim], unit rows; encoded if not stored."""
    rows = load_bank(encoder.fingerprint, encoder.dim)
    if rows is not None:
        return rows
    half = encode_bank(encoder)
    # A cache: if the disk is full or read-only, the next use encodes the bank again.
    with suppress(OSError):
        write_bank(half, encoder.fingerprint, _cache_folder())
    rows = _unit_rows(half)
    assert rows is not None
    return rows


def encode_bank(encoder: Encoder) -> Array:
    """The embeddings of the bank as they are stored, float16 [1000, dim]."""
    return encode_all(encoder, generic_queries()).astype(np.float16)


def write_bank(rows: Array, fingerprint: str, folder: Path) -> None:
    """Store what `encode_bank` returns, by the model's fingerprint; raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _file_name(fingerprint)
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.save(file, rows)


def encode_all(encoder: Encoder, texts: tuple[str, ...]) -> Floats:
    """Texts in batches: float32 [n, dim], unit rows."""
    batches = range(0, len(texts), _BATCH)
    return np.concatenate([encoder.encode_texts(texts[i : i + _BATCH]) for i in batches])


@cache
def bank_version() -> str:
    """A hash of the sentences: files that were computed from other sentences are not used."""
    from blake3 import blake3

    return blake3(QUERIES.read_bytes()).hexdigest()[:16]


def _file_name(fingerprint: str) -> str:
    safe = "".join(c for c in fingerprint if c.isalnum())
    return f"bank-{safe}-{bank_version()}.npy"


def _cache_folder() -> Path:
    import platformdirs

    return platformdirs.user_cache_path("crossmodal-retrieval")


def _read(path: Path, dim: int) -> Floats | None:
    """A bank as unit rows; None if the file is missing or damaged (it is only a cache)."""
    if not path.is_file():  # reading a pipe would never end
        return None
    try:
        # Mapped into memory: a header that claims more than the file has allocates nothing.
        with np.errstate(all="ignore"):
            rows: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception:  # numpy parses the header as Python and passes on whatever that raises
        return None
    if rows.dtype != np.float16 or rows.shape != (len(generic_queries()), dim):
        return None
    return _unit_rows(rows)


def _unit_rows(rows: Array) -> Floats | None:
    """Rows as float32 of length one; None if one of them has no direction."""
    whole = rows.astype(np.float32)
    norms = np.linalg.norm(whole, axis=1, keepdims=True)
    if not np.isfinite(norms).all() or not (norms > 0).all():
        return None
    result: Floats = whole / norms
    return result
