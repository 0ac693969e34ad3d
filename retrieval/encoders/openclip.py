"""Any open_clip model as an Encoder: bf16 on a GPU, float32 on the CPU.

`openclip_weights` finds and loads the model; here it computes embeddings.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from blake3 import blake3
from PIL import Image

from indexes.arrays import Array, Floats
from indexes.lazy_imports import load_torch
from retrieval.encoders.base import Log, check_embeddings
from retrieval.encoders.cuda import first_sentence
from retrieval.encoders.engine import Compute, build_with_openvino, torch_device
from retrieval.encoders.openclip_weights import load_model, split_name
from retrieval.encoders.torch_runner import ModuleRunner
from retrieval.errors import ModelError

if TYPE_CHECKING:
    from retrieval.encoders.openvino_runner import CompiledGraph

_CPU_BATCH_SIZE = 32  # photos or texts


class OpenClipEncoder:
    """An open_clip model as an Encoder, in bf16 on a GPU and float32 on the CPU.

    name: `ARCH:TAG`, `ARCH:CHECKPOINT_FILE`, `hf-hub:ORG/MODEL` or `local-dir:FOLDER`.
    compute: engine and device for photos, and device for texts. log: receives a sentence if they
    are not available.
    Raises ModelError if there is no such model or its weights are not available.
    """

    def __init__(self, name: str, compute: Compute = Compute(), log: Log = lambda _: None) -> None:
        self.name, architecture, weights = split_name(name)
        self._compute, self._log = compute, log
        model, transform, self._tokenizer = load_model(self.name, architecture, weights)
        with self._failures():
            *self._pixel_steps, _to_tensor, normalize = transform.transforms
            size = getattr(model.visual, "image_size", 224)
            self.image_size = int(size[0] if isinstance(size, tuple) else size)
            self.prepare(Image.new("RGB", (8, 8)))
            self.fingerprint = _fingerprint(model)
        loaded = [model]

        def build() -> Any:
            """Use the loaded model the first time, and load it again after that."""
            again = loaded.pop() if loaded else load_model(self.name, architecture, weights)[0]
            with self._failures():
                return _build_towers(again, normalize)

        device = torch_device(compute, log)
        self._runner = ModuleRunner(build, device, _CPU_BATCH_SIZE, log, True, compute.compile)
        self.dim = self.encode_texts(["a photo"]).shape[1]

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """Whatever goes wrong inside a model, as a ModelError."""
        try:
            yield
        except ModelError:
            raise
        except Exception as error:
            raise ModelError(
                f"The model {self.name} cannot be used ({first_sentence(error)}). Check that its "
                "files are not damaged, or choose another model with --model."
            ) from error

    @property
    def device(self) -> str:
        """Where photos and texts are currently computed, as torch names it."""
        return self._runner.device

    def prepare(self, photo: Image.Image) -> npt.NDArray[np.uint8]:
        """The model's own preprocessing up to the pixels: uint8 [size, size, 3]."""
        for step in self._pixel_steps:
            photo = step(photo)
        return np.array(photo, dtype=np.uint8)

    def encode_images(self, batch: Sequence[Array]) -> Floats:
        """Embed prepared photos: float32 [n, dim], unit rows."""
        if not len(batch):
            return np.empty((0, self.dim), np.float32)
        with self._failures():
            if self._graph is not None:
                rows = self._graph.run(np.stack(batch))
            else:
                rows = self._runner.run(_forward_photos, batch)
        return check_embeddings(rows, self.name)

    def encode_texts(self, texts: Sequence[str]) -> Floats:
        """Embed texts, truncated to the context length: float32 [n, dim], unit rows."""
        if not len(texts):
            return np.empty((0, self.dim), np.float32)
        with self._failures():
            rows = self._runner.run(_forward_texts, self._tokenizer(list(texts)).numpy())
        return check_embeddings(rows, self.name)

    def reads_all(self, text: str) -> bool:
        """Whether a text fits into the context length of the model.

        With room for one token more, the last token of one that does is padding.
        """
        length = self._tokenizer([text]).shape[1]
        with self._failures():
            tokens, padding = (self._tokenizer([t], length + 1)[0, -1] for t in (text, ""))
        return bool(tokens == padding)

    def torch_module(self) -> Any:
        """The image tower as a torch module on the CPU: uint8 [n, size, size, 3] to unit rows."""
        module = self._runner.module
        return module if self.device == "cpu" else copy.deepcopy(module).cpu()

    @cached_property
    def _graph(self) -> CompiledGraph | None:
        """The image tower in OpenVINO; None where torch computes it."""

        def build() -> CompiledGraph | None:
            from retrieval.encoders import openvino_convert

            if self._compute.engine == "auto" and not openvino_convert.is_faster_than_torch():
                return None
            return openvino_convert.convert(self.torch_module(), self.image_size)

        if self.device != "cpu":
            return None
        return build_with_openvino(self._compute, build, self._log)


def _build_towers(model: Any, normalize: Any) -> Any:
    """The two towers as one module: prepared photos, or token ids, to unit rows.

    normalize: the last step of the model's own preprocessing, for pixels from 0 to 1.
    """
    torch = load_torch()

    class Towers(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.model = model
            for name in ("mean", "std"):
                value = torch.tensor(getattr(normalize, name))[:, None, None]
                self.register_buffer(name, value, persistent=False)

        def forward(self, photos: Any) -> Any:
            """uint8 (B, S, S, 3) -> float32 (B, dim)."""
            pixels = photos.permute(0, 3, 1, 2).float() / 255.0  # channels-last in memory
            return self.unit_rows(self.model.encode_image((pixels - self.mean) / self.std))

        def encode_texts(self, ids: Any) -> Any:
            """int64 (B, T) -> float32 (B, dim)."""
            return self.unit_rows(self.model.encode_text(ids))

        def unit_rows(self, rows: Any) -> Any:
            return torch.nn.functional.normalize(rows.float(), dim=-1)

    return Towers().eval()


def _forward_photos(towers: Any, photos: Any) -> Any:
    return towers(photos)


def _forward_texts(towers: Any, ids: Any) -> Any:
    return towers.encode_texts(ids)


def _fingerprint(model: Any) -> str:
    """BLAKE3 over the names, shapes and bytes of all weights (16 hex digits).

    Raises ValueError for a weight that is not finite.
    """
    digest = blake3()
    for key, value in sorted(model.state_dict().items()):
        if value.is_floating_point() and not value.float().sum().isfinite():
            raise ValueError(f"the weights {key} are not finite")
        digest.update(f"{key} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
