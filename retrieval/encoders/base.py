"""The interface of every encoder: photos and texts in, unit vectors of one shared space out.

Each kind of model has a module that implements it. Importing this module does not import torch.
"""

import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from PIL import Image

from indexes.arrays import Array, Floats
from retrieval.errors import ModelError

Log = Callable[[str], None]
"""Receives messages for the user, one sentence at a time."""
EngineName = Literal["auto", "torch", "openvino"]
DeviceName = Literal["auto", "cpu", "cuda"]


class Encoder(Protocol):
    """The interface of every encoder. All of it may be called from many threads at once."""

    name: str
    """The name that an index records and `--model` takes."""
    fingerprint: str
    """A hash of the weights: encoders with equal fingerprints give equal embeddings."""
    dim: int
    """The length of every embedding."""
    image_size: int
    """The side, in pixels, of the square that the model sees."""

    @property
    def device(self) -> str:
        """Where photos are currently computed: `cpu`, or a GPU as torch names it."""
        ...

    def prepare(self, photo: Image.Image) -> Array:
        """Turn an upright RGB photo into the array that `encode_images` batches."""
        ...

    def encode_images(self, batch: Sequence[Array]) -> Floats:
        """Embed prepared photos: float32 [n, dim], unit rows."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> Floats:
        """Embed texts: float32 [n, dim], unit rows."""
        ...

    def torch_module(self) -> Any:
        """The computation of `encode_images` as a torch module on the CPU, for comparisons."""
        ...


def reads_all(encoder: Encoder, text: str) -> bool:
    """Whether an encoder takes in a text to its end: it has so many tokens, and no more.

    An encoder may say so with a method `reads_all(text)`; others are taken to read everything.
    """
    check = getattr(encoder, "reads_all", None)
    return check is None or bool(check(text))


def check_embeddings(rows: Floats, model: str) -> Floats:
    """`rows` [n, dim] as they are; raises ModelError unless they are finite and of length one.

    Damaged weights give anything, and an index must not record it.
    """
    lengths = np.einsum("nd,nd->n", rows, rows)
    if not np.all(np.abs(lengths - 1) < 0.05):  # also if it is not a number
        raise ModelError(
            f"The model {model} computes embeddings that are not of length one: its weights are "
            "damaged. Restore them, or choose another model with --model."
        )
    return rows


def checked_size(path: Path, most: int) -> int:
    """The bytes of a file of a model, before it is read.

    Raises OSError, or ValueError if it has more than `most`, or is a pipe or a device, which may
    never end.
    """
    state = path.stat()
    if not stat.S_ISREG(state.st_mode):
        raise ValueError("it is not a file")
    if state.st_size > most:
        raise ValueError(f"it has {state.st_size:,} bytes, more than {most:,}")
    return state.st_size
