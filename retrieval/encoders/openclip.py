"""Any model of open_clip, by its name there, from a hub or from a local checkpoint.

Weights are looked for in the local cache first, without a word to the network, and loaded as
safetensors or by torch's weights-only loader: a checkpoint is data and never runs code.
"""

from __future__ import annotations

import copy
import difflib
import json
import logging
import os
import socket
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt
from blake3 import blake3
from PIL import Image

from indexes.arrays import Array, Floats
from indexes.lazy_imports import load_torch
from retrieval.encoders.base import Log
from retrieval.encoders.engine import Compute, torch_device, with_openvino
from retrieval.encoders.torch_runner import ModuleRunner
from retrieval.errors import ModelError

if TYPE_CHECKING:
    from retrieval.encoders.openvino_runner import CompiledGraph

_REACH_SECONDS = 3.0
_ON_CPU = 32  # photos or texts at a time


class OpenClipEncoder:
    """An open_clip model as an Encoder, in bf16 on a GPU and float32 on the CPU.

    name: `ARCH:TAG`, `ARCH:CHECKPOINT_FILE`, `hf-hub:ORG/MODEL` or `local-dir:FOLDER`.
    compute: for photos, and the device for texts. log: receives a sentence if that fails.
    Raises ModelError where there is no such model or its weights are out of reach.
    """

    def __init__(self, name: str, compute: Compute = Compute(), log: Log = lambda _: None) -> None:
        self.name, architecture, weights = split_name(name)
        self._compute, self._log = compute, log
        model, transform, self._tokenizer = _load(self.name, architecture, weights)
        *self._pixels, _to_tensor, normalize = transform.transforms
        size = getattr(model.visual, "image_size", 224)
        self.image_size = int(size[0] if isinstance(size, tuple) else size)
        self.fingerprint = _fingerprint(model)
        first = [model]

        def build() -> Any:
            again = first.pop() if first else _load(self.name, architecture, weights)[0]
            return _towers(again, normalize)

        device = torch_device(compute, log)
        self._runner = ModuleRunner(build, device, _ON_CPU, log, True, compute.compile)
        self.dim = self.encode_texts(["a photo"]).shape[1]

    @property
    def device(self) -> str:
        """Where it computes now, as torch names it."""
        return self._runner.device

    def prepare(self, photo: Image.Image) -> npt.NDArray[np.uint8]:
        """The model's own preprocessing up to the pixels: uint8 [size, size, 3]."""
        for step in self._pixels:
            photo = step(photo)
        return np.array(photo, dtype=np.uint8)

    def encode_images(self, batch: Sequence[Array]) -> Floats:
        """Prepared photos to float32 [n, dim], unit rows."""
        if not len(batch):
            return np.empty((0, self.dim), np.float32)
        if self._graph is not None:
            return self._graph.run(np.stack(batch))
        return self._runner.run(_photos, batch)

    def encode_texts(self, texts: Sequence[str]) -> Floats:
        """Texts to float32 [n, dim], unit rows; what is beyond the context length is cut off."""
        if not len(texts):
            return np.empty((0, self.dim), np.float32)
        return self._runner.run(_texts, self._tokenizer(list(texts)).numpy())

    def torch_module(self) -> Any:
        """The image tower as a torch module on the CPU: uint8 [n, size, size, 3] to unit rows."""
        module = self._runner.module
        return module if self.device == "cpu" else copy.deepcopy(module).cpu()

    @cached_property
    def _graph(self) -> CompiledGraph | None:
        """The image tower in OpenVINO, if that is to compute it."""

        def graph() -> CompiledGraph | None:
            from retrieval.encoders import openvino_convert

            if self._compute.engine == "auto" and not openvino_convert.gains():
                return None
            return openvino_convert.convert(self.torch_module(), self.image_size)

        return with_openvino(self._compute, graph, self._log) if self.device == "cpu" else None


def _towers(model: Any, normalize: Any) -> Any:
    """The two towers as one module: prepared photos, or token ids, to unit rows.

    normalize: the model's own last step of preprocessing, of pixels from 0 to 1.
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
            return self.unit(self.model.encode_image((pixels - self.mean) / self.std))

        def texts(self, ids: Any) -> Any:
            """int64 (B, T) -> float32 (B, dim)."""
            return self.unit(self.model.encode_text(ids))

        def unit(self, rows: Any) -> Any:
            return torch.nn.functional.normalize(rows.float(), dim=-1)

    return Towers().eval()


def _photos(towers: Any, photos: Any) -> Any:
    return towers(photos)


def _texts(towers: Any, ids: Any) -> Any:
    return towers.texts(ids)


def split_name(name: str) -> tuple[str, str, str | None]:
    """A model's name, with a file's path made absolute, as (name, architecture, weights)."""
    scheme, _, rest = name.partition(":")
    if scheme == "hf-hub":
        return name, name, None
    if scheme == "local-dir":
        folder = Path(rest).expanduser().resolve()
        return f"local-dir:{folder}", f"local-dir:{folder}", None
    if not rest:
        raise ModelError(
            f"'{name}' is no model. Write ARCH:WEIGHTS as open_clip does "
            "(ViT-B-32-256:datacomp_s34b_b86k), hf-hub:ORG/MODEL, ARCH:CHECKPOINT_FILE, or one of "
            "the presets mini, base, better, best and multilingual."
        )
    file = Path(rest).expanduser()
    if file.is_file():
        return f"{scheme}:{file.resolve()}", scheme, str(file.resolve())
    return name, scheme, rest


def _check_known(architecture: str, weights: str) -> None:
    """Raise ModelError, with near names, for an architecture or weights that do not exist."""
    import open_clip

    known = open_clip.list_models()
    if architecture not in known:
        raise ModelError(
            f"open_clip has no architecture '{architecture}'.{_near(architecture, known)} "
            "`python -c 'import open_clip; print(open_clip.list_models())'` lists them."
        )
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if weights not in tags and not Path(weights).is_file():
        raise ModelError(
            f"open_clip has no weights '{weights}' for {architecture}, and there is no such file. "
            f"It has: {', '.join(tags) or 'none'}."
        )


def _near(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, 3)
    return f" Did you mean {' or '.join(near)}?" if near else ""


def _load(name: str, architecture: str, weights: str | None) -> tuple[Any, Any, Any]:
    """Model, preprocessing and tokenizer: from the cache if all is there, else from the hub."""
    import open_clip

    if weights is not None:
        _check_known(architecture, weights)
    reason: Exception
    for offline in (True, False):
        if not offline and not hub_reachable():
            break
        try:
            with _hub(offline), _quiet():
                _refuse_code(architecture)
                model, _, transform = open_clip.create_model_and_transforms(
                    architecture,
                    pretrained=weights,
                    force_quick_gelu=_quick_gelu(architecture, weights),
                    require_pretrained=True,
                    weights_only=True,
                )
                return model, transform, open_clip.get_tokenizer(architecture)
        except ModelError:
            raise
        except Exception as error:
            reason = error
        if (weights is not None and Path(weights).is_file()) or name.startswith("local-dir:"):
            raise ModelError(
                f"The model {name} cannot be loaded: {_short(reason)}. Check that the checkpoint "
                "belongs to that architecture and is not damaged."
            ) from reason
    raise ModelError(
        f"The weights of {name} are not on this machine and cannot be downloaded "
        f"({_short(reason)}). Connect to the network and try again, give a local checkpoint as "
        "ARCH:FILE, or use --model mini, which needs no network."
    ) from reason


def _refuse_code(architecture: str) -> None:
    """Raise ModelError where the configuration of a model asks for code of its own to be run.

    open_clip hands what it finds there to transformers, which would run Python files of the model.
    """
    scheme, _, place = architecture.partition(":")
    if scheme == "local-dir":
        file = Path(place) / "open_clip_config.json"
    elif scheme == "hf-hub":
        from huggingface_hub import hf_hub_download

        file = Path(hf_hub_download(place.partition("@")[0], "open_clip_config.json"))
    else:
        return
    from transformers import dynamic_module_utils

    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0  # never ask on the terminal either
    if "trust_remote_code" in _keys(json.loads(file.read_text("utf-8"))):
        raise ModelError(
            f"The model {architecture} wants code of its own to be run, which is never done here. "
            "Choose another model."
        )


def _keys(value: Any) -> set[str]:
    """All names in a JSON value, at any depth."""
    if isinstance(value, dict):
        return set(value).union(*(_keys(inner) for inner in value.values()))
    if isinstance(value, list):
        return set().union(*(_keys(inner) for inner in value))
    return set()


def _quick_gelu(architecture: str, weights: str | None) -> bool:
    """Whether these weights were trained with QuickGELU, whatever the architecture says."""
    import open_clip

    tag = open_clip.get_pretrained_cfg(architecture, weights) if weights else None
    return bool((tag or {}).get("quick_gelu", False))


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200].rstrip(".")


@contextmanager
def _quiet() -> Iterator[None]:
    """Run without the warnings and log lines of open_clip, which speaks through the root logger."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextmanager
def _hub(offline: bool) -> Iterator[None]:
    """Run with the hub's client kept off the network, or let it on."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = offline or before
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def in_cache(repository: str) -> bool:
    """Whether the weights of a hub repository were downloaded before."""
    from huggingface_hub import try_to_load_from_cache

    names = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
    return any(isinstance(try_to_load_from_cache(repository, name), str) for name in names)


def hub_reachable() -> bool:
    """Whether the model hub (HF_ENDPOINT) answers within seconds; its client retries for long."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    if any(os.environ.get(v) for v in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True  # only the proxy can tell
    address = urlsplit(constants.ENDPOINT)
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        socket.create_connection((address.hostname or "", port), _REACH_SECONDS).close()
    except OSError:
        return False
    return True


def _fingerprint(model: Any) -> str:
    """BLAKE3 over names, shapes and bytes of all weights (16 hex digits)."""
    digest = blake3()
    for key, value in sorted(model.state_dict().items()):
        digest.update(f"{key} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
