"""The bank of generic queries: what the rankings against hubs measure each photo by.

Its 1,000 sentences come from no data set (see retrieval/training/query_bank.py), so it shares
nothing with what is searched or evaluated. Their embeddings are encoded once for each model: those
of `mini` are shipped, others are kept in the user's cache folder.
"""

import os
from functools import cache
from pathlib import Path

import numpy as np

from indexes.arrays import Array, Floats
from retrieval.encoders.base import Encoder

QUERIES = Path(__file__).parent / "generic_queries.txt"
SHIPPED = Path(__file__).parents[1] / "weights" / "mini"
_BATCH = 256


@cache
def generic_queries() -> tuple[str, ...]:
    """The sentences, none twice."""
    return tuple(QUERIES.read_text(encoding="utf-8").splitlines())


def load_bank(fingerprint: str, dim: int) -> Floats | None:
    """The bank's embeddings by the model of this fingerprint, float32 [1000, dim], if at hand."""
    name = _name(fingerprint)
    return _read(SHIPPED / name, dim) if (SHIPPED / name).exists() else _read(_kept() / name, dim)


def bank(encoder: Encoder) -> Floats:
    """The bank's embeddings, float32 [1000, dim], unit rows; the first time they are encoded."""
    rows = load_bank(encoder.fingerprint, encoder.dim)
    if rows is None:
        try:
            rows = write_bank(encoder, _kept())
        except OSError:  # a cache: a full or read-only disk only costs the time again
            rows = encode_all(encoder, generic_queries())
    return rows


def write_bank(encoder: Encoder, folder: Path) -> Floats:
    """Encode the bank and write it to `folder`, as float16 under the fingerprint's name."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _name(encoder.fingerprint)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            np.save(file, encode_all(encoder, generic_queries()).astype(np.float16))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    rows = _read(path, encoder.dim)
    assert rows is not None
    return rows


def encode_all(encoder: Encoder, texts: tuple[str, ...]) -> Floats:
    """Texts in batches: float32 [n, dim], unit rows."""
    batches = range(0, len(texts), _BATCH)
    return np.concatenate([encoder.encode_texts(texts[i : i + _BATCH]) for i in batches])


@cache
def bank_version() -> str:
    """A name that changes with the sentences, so that what was made by others is not used."""
    from blake3 import blake3

    return blake3(QUERIES.read_bytes()).hexdigest()[:16]


def _name(fingerprint: str) -> str:
    safe = "".join(c for c in fingerprint if c.isalnum())
    return f"bank-{safe}-{bank_version()}.npy"


def _kept() -> Path:
    import platformdirs

    return platformdirs.user_cache_path("crossmodal-retrieval")


def _read(path: Path, dim: int) -> Floats | None:
    """A bank as unit rows; None where the file is missing or is not one (it is only a cache)."""
    try:
        with path.open("rb") as file:
            rows: Array = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    if rows.dtype != np.float16 or rows.shape != (len(generic_queries()), dim):
        return None
    whole = rows.astype(np.float32)
    norms = np.linalg.norm(whole, axis=1, keepdims=True)
    if not np.isfinite(norms).all() or not (norms > 0).all():
        return None
    result: Floats = whole / norms
    return result
