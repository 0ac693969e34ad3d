"""What an index run is asked to do, what it reports while it goes on, and what it did."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from retrieval.encoders.engine import Compute


@dataclass
class Report:
    """What a run did. Counts are of files, but for `encoded`, `pruned` and `fused` (photos).
    `captioned` are the files that a caption was found for, `fused` the photos whose captions are
    new or others than before."""

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
    reasons: list[tuple[str, str]] = field(default_factory=list)  # (path, reason), new ones
    notes: list[str] = field(default_factory=list)  # sentences on what was left out

    @property
    def photos_per_second(self) -> float:
        """Photos that were encoded, by the time of the whole run."""
        return self.encoded / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True)
class Progress:
    """How far a run is: files (or photos whose captions are read) done of `total`, of which
    `skipped`."""

    done: int
    total: int
    skipped: int
    what: Literal["photos", "captions"] = "photos"


@dataclass(frozen=True)
class Options:
    """How to index.

    exclude: shell patterns, None for those of the last run; workers: decoding threads, None for
    one a core; max_megapixels: larger photos are skipped, None to choose by free memory; prune:
    forget photos that are gone; rebuild: encode all again, needed to change the model; compute: by
    which engine and device; batch_size: photos that are encoded and committed together; captions:
    files that name photos and say what is in them, None for those of the last run.
    """

    exclude: Sequence[str] | None = None
    workers: int | None = None
    max_megapixels: float | None = None
    prune: bool = False
    rebuild: bool = False
    compute: Compute = field(default_factory=Compute)
    batch_size: int | None = None
    captions: Sequence[Path] | None = None
