"""What every encoder offers: photos and texts in, unit vectors of one shared space out.

One module for each kind of model implements this interface. Importing this costs no torch.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

from PIL import Image

from indexes.arrays import Array, Floats

Log = Callable[[str], None]  # receives what a user should know, a sentence at a time
EngineName = Literal["auto", "torch", "openvino"]
DeviceName = Literal["auto", "cpu", "cuda"]


class Encoder(Protocol):
    """What every encoder offers; all of it may be called from many threads at once."""

    name: str
    """As an index records it and `--model` takes it."""
    fingerprint: str
    """A hash of the weights: two encoders with the same one give the same embeddings."""
    dim: int
    """The length of every embedding."""
    image_size: int
    """The side, in pixels, of the square that the model looks at."""

    @property
    def device(self) -> str:
        """Where photos are computed now: `cpu`, or a card as torch names it."""
        ...

    def prepare(self, photo: Image.Image) -> Array:
        """An upright RGB photo as the array that `encode_images` batches."""
        ...

    def encode_images(self, batch: Sequence[Array]) -> Floats:
        """Prepared photos to float32 [n, dim], unit rows."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> Floats:
        """Texts to float32 [n, dim], unit rows."""
        ...

    def torch_module(self) -> Any:
        """What `encode_images` computes as a torch module on the CPU, to compare with."""
        ...
