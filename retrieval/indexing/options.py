"""The options of an index run, its progress and its report. No work is done here."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from indexes.vectors.build import Choice
from retrieval.encoders.engine import Compute
from retrieval.query import as_list


@dataclass(frozen=True)
class Report:
    """What a run did, in numbers of files; `encoded`, `pruned`, `fused`, `reread` are of photos.

    added, updated, moved, copied, unchanged: photo files; removed: files that are no longer there;
    skipped: bad files; captioned: files that have captions; fused: photos whose captions are new or
    changed; reread: photos whose metadata was read again. reasons: the bad files that this run
    read, as (path, reason); notes: sentences on what was left out.
    """

    added: int = 0
    updated: int = 0
    moved: int = 0
    copied: int = 0
    removed: int = 0
    unchanged: int = 0
    skipped: int = 0
    encoded: int = 0
    pruned: int = 0
    captioned: int = 0
    fused: int = 0
    reread: int = 0
    seconds: float = 0.0
    reasons: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def photos_per_second(self) -> float:
        """Encoded photos per second of the whole run."""
        return self.encoded / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True)
class Progress:
    """How far a run is: `done` of `total` files, `skipped` of them bad; or, if `what` is captions,
    photos whose captions were embedded; if it is vectors, photos that an approximate kind holds; if
    it is metadata, files whose metadata was read again."""

    done: int
    total: int
    skipped: int
    what: Literal["photos", "captions", "metadata", "vectors"] = "photos"


@dataclass(frozen=True)
class Options:
    """How to index.

    exclude: shell patterns of files to leave out.
    include: shell patterns of hidden files and folders of the system to bring in.
    workers: decoding threads, None for one a core.
    max_megapixels: larger photos are skipped, None to choose by free memory.
    prune: forget photos that are missing from disk.
    rebuild: encode all photos again, as a change of model needs.
    compute: engine and device.
    batch_size: photos that are encoded and committed together, None to choose by the device.
    reread: read the metadata of all photos again, without encoding.
    captions: files with captions of photos.
    vectors: how they are searched, 'auto' or one of `indexes.vectors.store.KINDS`.

    exclude, include and captions are one or several. With vectors they are remembered: None takes
    those of the last run.
    """

    exclude: Sequence[str] | None = None
    workers: int | None = None
    max_megapixels: float | None = None
    prune: bool = False
    rebuild: bool = False
    compute: Compute = field(default_factory=Compute)
    batch_size: int | None = None
    captions: Sequence[Path] | None = None
    vectors: Choice | None = None
    include: Sequence[str] | None = None
    reread: bool = False

    def __post_init__(self) -> None:
        if self.exclude is not None:
            object.__setattr__(self, "exclude", as_list(self.exclude))
        if self.include is not None:
            object.__setattr__(self, "include", as_list(self.include))
        if self.captions is not None:
            object.__setattr__(self, "captions", [Path(file) for file in as_list(self.captions)])
