"""What a user can choose for a training run, and the callbacks that report on it.

Nothing here imports torch, so the command line starts fast. The hyper-parameters of a model are in
`config`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from retrieval.training.config import Recipe

Log = Callable[[str], None]
"""Takes a sentence for the user."""
Progress = Callable[[str, int, int], None]
"""Takes what is being done, how many are done, and how many there are."""


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """The photos to train on and the held-out photos to measure on.

    dataset: captioned photos in any format of `retrieval.datasets.captioned`; split: the split to
    train on, by default 'train' if the data set has it, else all photos; held_out: the split to
    measure on, by default 'val' if there is one, else a tenth of the photos, drawn by the seed;
    images: the folder of the photos, if it is not in a usual place; skip_bad: leave out bad entries
    and unreadable photos instead of raising an error.
    """

    dataset: Path
    split: str | None = None
    held_out: str | None = None
    images: Path | None = None
    skip_bad: bool = False
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class TrainOptions(DataOptions):
    """`retrieval train`. out: the folder of the new model; model: 'mini' or a folder that
    `retrieval train` wrote; texts: a file with additional texts, one per line, whose similarities
    to each other training should preserve; device: 'auto', 'cpu' or 'cuda'."""

    out: Path
    model: str = "mini"
    recipe: Recipe = field(default_factory=Recipe)
    texts: Path | None = None
    device: str = "auto"


@dataclass(frozen=True, kw_only=True)
class FusionTrainOptions(DataOptions):
    """`retrieval train-fusion`. model: as for `retrieval index`; out: the file of the fusion, by
    default the one that searches with this model use. The photos need two captions or more."""

    model: str = "auto"
    out: Path | None = None
