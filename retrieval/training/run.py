"""What the steps of one training run share: its hyper-parameters, seed, device and folder.

A value only; the steps are in `trainer`, `precomputed` and `augmentation`.
"""

from dataclasses import dataclass
from pathlib import Path

from retrieval.training.config import Recipe
from retrieval.training.options import Progress


@dataclass(frozen=True)
class TrainingRun:
    """out: the folder of the new model; device: as torch names it."""

    out: Path
    recipe: Recipe
    seed: int
    device: str
    progress: Progress = lambda *_: None

    @property
    def folder(self) -> Path:
        """The folder of precomputed features and of the checkpoint."""
        return self.out / "training"
