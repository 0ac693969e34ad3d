"""What searches need from one version of the catalogue: its vectors, their mean, biases.

All of it is computed from the catalogue when it is first asked for, or read from cache files in the
folder of the index. A file may have been written later: only what this version has is taken from
it. Which version is read, `indexes.snapshots` decides.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path

import numpy as np

from indexes import biases, gpu, vectors
from indexes.arrays import Floats
from indexes.biases import NO_BIASES, Biases
from indexes.catalogue import Catalogue
from indexes.errors import StorageError
from indexes.regular_files import delete_file

CACHE_FILES = ("vectors-*.faiss", "bias-*.bin")  # with the generation at the end of the name
# A file may lack this many newer photos before it is written again: rewriting all for a few costs
# more than adding what is missing to each search.
_MOST_NEWER, _MOST_NEWER_SHARE = 256, 0.01
_MEAN_SAMPLE = 2000  # photos whose mean stands for that of all


class Snapshot:
    """One version of a catalogue, as searches see it.

    version: what `Catalogue.version` gave. parts: the vectors, those of the file first, then those
    of newer photos.
    """

    def __init__(self, folder: Path, catalogue: Catalogue, dim: int, version: int) -> None:
        self.version = version
        self._folder, self._catalogue, self._dim = folder, catalogue, dim
        self._searches = 0
        self._biases: dict[str, Biases] = {}
        self._file = _vectors_file(folder, catalogue)
        self.parts = self._load()

    def _load(self) -> list[vectors.Part]:
        newest = self._catalogue.embeddings.last_id()
        stored = vectors.load(self._file, self._dim, self._catalogue.database.most_cache_bytes())
        if stored is not None:
            stored = _up_to(stored, newest)
        last = int(stored.ids[-1]) if stored is not None and len(stored) else 0
        newer = vectors.Part(
            *self._catalogue.embeddings.all_searchable(self._dim, last, verified=stored is None)
        )
        if stored is not None:
            return [stored, newer]
        with suppress(OSError, RuntimeError):  # without the cache, the next search is only slower
            vectors.save(newer, self._file)
        return [newer]

    def __len__(self) -> int:
        """The number of photos, including those that are missing from disk."""
        return sum(map(len, self.parts))

    def known(self, ids: Sequence[int]) -> list[int]:
        """Those of the ids that belong to photos, in the same order."""
        wanted = np.array(ids, np.int64)
        known = np.zeros(len(wanted), np.bool_)
        for part in filter(len, self.parts):
            places = np.searchsorted(part.ids, wanted).clip(max=len(part) - 1)
            known |= part.ids[places] == wanted
        return [i for i, is_known in zip(ids, known.tolist(), strict=True) if is_known]

    def parts_for_search(self) -> list[vectors.Part]:
        """The vectors; they move to the GPUs once searches of many vectors are many."""
        self._searches += 1
        if self._searches == gpu.MIN_SEARCHES:
            self.parts = [
                gpu.to_gpus(part) if len(part) >= gpu.MIN_ROWS else part for part in self.parts
            ]
        return self.parts

    @cached_property
    def mean(self) -> Floats:
        """The mean of the vectors, float32 [dim]; of a sample if they are many."""
        return vectors.mean_row(self.parts, self._dim, _MEAN_SAMPLE)

    def biases(self, name: str, compute: Callable[[Floats], Floats]) -> Biases:
        """As `Index.biases`."""
        if name not in self._biases:
            self._biases[name] = self._load_biases(name, compute)
        return self._biases[name]

    def _load_biases(self, name: str, compute: Callable[[Floats], Floats]) -> Biases:
        path = self._folder / f"bias-{name}-{self._catalogue.generation()}.bin"
        stored = biases.load(path, self._catalogue.database.most_cache_bytes()).up_to(
            self._catalogue.embeddings.last_id()
        )
        last = int(stored.ids[-1]) if len(stored.ids) else 0
        if not all(stored.cover(part.ids, upto=last) for part in self.parts):
            stored, last = NO_BIASES, 0  # a file of another index, whatever its name says
        ids, rows = self._catalogue.embeddings.all_searchable(self._dim, after=last)
        if not len(ids):
            return stored
        known = stored.extended(ids, compute(rows))
        if not len(stored.ids) or _are_many(len(ids), len(stored.ids)):
            with suppress(OSError):  # without the cache, the next search computes them again
                biases.save(known, path)
        return known

    def is_outdated(self) -> bool:
        """Whether the file of vectors lacks many photos."""
        return len(self.parts) > 1 and _are_many(len(self.parts[1]), len(self.parts[0]))


def _up_to(part: vectors.Part, newest: int) -> vectors.Part | None:
    """The rows of a file whose ids are at most `newest`; None if its ids do not grow."""
    if len(part) and (part.ids[0] < 1 or not (np.diff(part.ids) > 0).all()):
        return None
    count = int(np.searchsorted(part.ids, newest, side="right"))
    return part if count == len(part) else vectors.Part(part.ids[:count], part.rows[:count])


def _are_many(newer: int, stored: int) -> bool:
    return newer > _MOST_NEWER + stored * _MOST_NEWER_SHARE


def _vectors_file(folder: Path, catalogue: Catalogue) -> Path:
    return folder / f"vectors-{catalogue.generation()}.faiss"


def write_vectors(folder: Path, catalogue: Catalogue, dim: int) -> None:
    """Write all vectors to the cache file; raises StorageError."""
    path = _vectors_file(folder, catalogue)
    try:
        vectors.save(vectors.Part(*catalogue.embeddings.all_searchable(dim, verified=True)), path)
    except (OSError, RuntimeError) as error:
        raise StorageError(
            f"The vectors could not be written to {path} ({error}). The photos are safe in the "
            "catalogue; make room and run `retrieval index` again."
        ) from error


def delete_old_caches(folder: Path, catalogue: Catalogue) -> None:
    """Delete the cache files of other generations, and temporary ones of killed processes."""
    generation = catalogue.generation()
    for pattern in CACHE_FILES:
        for path in folder.glob(f"{pattern}*"):
            if not path.stem.endswith(f"-{generation}"):
                delete_file(path)
