"""What a training run learns from, in the shape that its modules share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image

Opener = Callable[[], Image.Image]
"""Gives one upright RGB photo."""
Progress = Callable[[str, int, int], None]
"""What is being done, how much of it, of how much."""


@dataclass(frozen=True)
class Examples:
    """Photos, each with one caption or more."""

    photos: Sequence[Opener]
    captions: Sequence[Sequence[str]]
