"""`mini`, the built-in encoder: small, offline, with its weights in the package.

EfficientNet-Lite2 for photos and MiniLM for texts share one space of unit vectors. Texts need only
numpy, which lets a search start fast. OpenVINO, or torch if OpenVINO is not available, is imported
when the first photos are encoded.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray
from PIL import Image

from indexes.arrays import Floats
from retrieval.encoders.base import Log, check_embeddings
from retrieval.encoders.engine import Compute, build_with_openvino, torch_device
from retrieval.encoders.mini.model_folder import (
    WEIGHTS,
    check_layout,
    read_config,
    read_error,
    read_tensors,
    read_tokenizer,
)
from retrieval.encoders.mini.text import TextEncoder

if TYPE_CHECKING:
    from retrieval.encoders.mini.image import ImageEncoder
    from retrieval.encoders.mini.image_openvino import GraphEncoder


class MiniEncoder:
    """Photos and texts to float32 unit rows of length `dim`; compare them by inner product.

    `fingerprint` is the first 16 hexadecimal digits of the weights file's BLAKE3 hash.
    """

    def __init__(
        self, folder: Path = WEIGHTS, compute: Compute = Compute(), log: Log = lambda _: None
    ) -> None:
        """Read the text side of `folder` (model.safetensors, tokenizer.json, config.json).

        compute: engine and device for photos; texts are always computed on the CPU. log: receives
        a sentence if those are not available.
        Raises ModelError, with the path, if a file is missing, damaged or of another format, before
        anything large is allocated.
        """
        self.name = "mini" if folder == WEIGHTS else f"trained:{folder.resolve()}"
        self._compute, self._log = compute, log
        self._weights = folder / "model.safetensors"
        self._config = read_config(folder)
        shapes = check_layout(folder, self._config)
        self.dim: int = self._config["dim"]
        self.image_size: int = self._config["image"]["size"]
        heads, longest = (self._config["text"][name] for name in ("heads", "longest"))
        try:
            self.fingerprint = blake3().update_mmap(self._weights).hexdigest()[:16]
        except OSError as error:
            raise read_error(self._weights, error) from error
        tokenizer = read_tokenizer(folder, shapes["text.tower.words"][0], longest)
        self._text = TextEncoder(read_tensors(self._weights, "text."), tokenizer, heads)
        self._image: GraphEncoder | ImageEncoder | None = None
        self._lock = threading.Lock()

    @property
    def device(self) -> str:
        """Where photos are currently computed. The first call loads the image tower."""
        return self._image_encoder().device

    def prepare(self, photo: Image.Image) -> NDArray[np.uint8]:
        """Squash the whole of an upright photo to a square: uint8 [size, size, 3].

        The model was trained on squashed photos: nothing is cropped, nothing is padded. Safe to
        call from several threads.
        """
        rgb = photo if photo.mode == "RGB" else photo.convert("RGB")
        return np.array(squash(rgb, self.image_size), dtype=np.uint8)

    def encode_images(self, batch: Sequence[NDArray[np.uint8]]) -> Floats:
        """Embed prepared photos: float32 [n, dim], unit rows.

        The first call loads the image tower. Raises ValueError if a photo did not come from
        `prepare`, and ModelError if the weights do not fit.
        """
        if len(batch) == 0:
            return np.empty((0, self.dim), np.float32)
        expected = (self.image_size, self.image_size, 3)
        if any(photo.shape != expected or photo.dtype != np.uint8 for photo in batch):
            raise ValueError(f"each photo must be uint8 {expected}, as `prepare` returns it")
        return check_embeddings(self._image_encoder().encode(batch), self.name)

    def encode_texts(self, texts: Sequence[str]) -> Floats:
        """Embed texts, truncated to 128 tokens: float32 [n, dim], unit rows."""
        return check_embeddings(self._text.encode(texts), self.name)

    def reads_all(self, text: str) -> bool:
        """Whether a text has no more tokens than are embedded."""
        return self._text.reads_all(text)

    def encode_sentences(self, texts: Sequence[str]) -> Floats:
        """Unit sentence vectors of MiniLM, to compare texts with texts: float32 [n, 384]."""
        return check_embeddings(self._text.sentences(texts), self.name)

    def _image_encoder(self) -> GraphEncoder | ImageEncoder:
        with self._lock:
            if self._image is None:
                try:
                    self._image = self._build_image_encoder()
                except (KeyError, RuntimeError, TypeError, ValueError) as error:
                    raise read_error(self._weights, error) from error
            return self._image

    def _build_image_encoder(self) -> GraphEncoder | ImageEncoder:
        tensors = read_tensors(self._weights, "image.")

        def build_graph() -> GraphEncoder:
            from retrieval.encoders.mini.image_openvino import GraphEncoder

            return GraphEncoder(tensors, self._config["image"])

        if self._compute.device != "cuda" and (
            encoder := build_with_openvino(self._compute, build_graph, self._log)
        ):
            return encoder
        from retrieval.encoders.mini.image import ImageEncoder

        # A GPU is used only on request: decoding photos takes longer than this model does.
        device = torch_device(self._compute, self._log) if self._compute.device == "cuda" else "cpu"
        return ImageEncoder(
            tensors, self._config["image"], device, self._log, self._compute.compile
        )

    def torch_module(self) -> Any:
        """The image side as a torch module: uint8 [n, size, size, 3] to unit rows."""
        from retrieval.encoders.mini.image import build_model

        return build_model(read_tensors(self._weights, "image."), self._config["image"])


def squash(photo: Image.Image, size: int) -> Image.Image:
    """Resize an RGB photo to a square of `size` pixels, ignoring its proportions.

    Training prepares photos in the same way.
    """
    return photo.resize((size, size), Image.Resampling.BICUBIC, reducing_gap=2.0)
