"""Dividing a captioned set into the photos to train on and the held-out photos to measure on."""

from dataclasses import replace

import numpy as np

from retrieval.datasets.captioned import ALL, CaptionedSet, read_captioned, select_split
from retrieval.errors import DataSetError
from retrieval.training.options import DataOptions, Log

HELD_OUT = 0.1
"""The share of the photos that is held out if the data set has no split for it."""
FEWEST = 20
"""Photos to train on: fewer are an error."""


def training_and_held_out(options: DataOptions, log: Log) -> tuple[CaptionedSet, CaptionedSet]:
    """The photos to train on and the held-out photos; no photo is in both.

    Raises DataSetError, also if fewer than 20 photos are left to train on.
    """
    everything = read_captioned(options.dataset, ALL, options.images, options.skip_bad, log)
    splits = {photo.split for photo in everything.photos}
    split = options.split or ("train" if "train" in splits else ALL)
    training = select_split(everything, split)
    held_out = options.held_out or ("val" if "val" in splits and split != ALL else None)
    if held_out is not None:
        measured = select_split(everything, held_out)
        names = {photo.name for photo in measured.photos}
        training = replace(
            training, photos=tuple(p for p in training.photos if p.name not in names)
        )
    else:
        order = np.random.default_rng(options.seed).permutation(len(training.photos))
        drawn = set(order[: max(int(len(order) * HELD_OUT), 1)].tolist())
        photos = list(enumerate(training.photos))
        measured = replace(training, photos=tuple(p for i, p in photos if i in drawn))
        training = replace(training, photos=tuple(p for i, p in photos if i not in drawn))
    require_enough(training.name, len(training.photos))
    return training, measured


def require_enough(name: str, photos: int) -> None:
    """Raise DataSetError if there are too few photos to train on."""
    if photos < FEWEST:
        raise DataSetError(
            f"{name} has {photos} captioned photos to train on. At least "
            f"{FEWEST} are needed, and thousands for a clear gain. Add more photos."
        )
