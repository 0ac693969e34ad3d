"""The options of an index run, its progress and its report. No work is done here."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from retrieval.encoders.engine import Compute
from retrieval.query import as_list


@dataclass(frozen=True)
class Report:
    """What a run did, in numbers of files, except for `encoded`, `pruned` and `fused`: of photos.

    added, updated, moved, copied, unchanged: photo files; removed: files that are no longer there;
    skipped: bad files; captioned: files that have captions; fused: photos whose captions are new or
    changed. reasons: the bad files that this run read, as (path, reason); notes: sentences on what
    was left out.
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
    photos whose captions were embedded."""

    done: int
    total: int
    skipped: int
    what: Literal["photos", "captions"] = "photos"


@dataclass(frozen=True)
class Options:
    """How to index.

    exclude: shell patterns of files to leave out, one or several, None for those of the last run;
    workers: decoding threads, None for one a core; max_megapixels: larger photos are skipped, None
    to choose by free memory; prune: forget photos that are missing from disk; rebuild: encode all
    photos again, as a change of model needs; compute: engine and device; batch_size: photos that
    are encoded and committed together, None to choose by the device; captions: files with captions
    of photos, one or several, None for those of the last run.
    """

    exclude: Sequence[str] | None = None
    workers: int | None = None
    max_megapixels: float | None = None
    prune: bool = False
    rebuild: bool = False
    compute: Compute = field(default_factory=Compute)
    batch_size: int | None = None
    captions: Sequence[Path] | None = None

    def __post_init__(self) -> None:
        if self.exclude is not None:
            object.__setattr__(self, "exclude", as_list(self.exclude))
        if self.captions is not None:
            object.__setattr__(self, "captions", [Path(file) for file in as_list(self.captions)])
