"""Features of the frozen towers of `mini` for a captioned data set, computed once and kept.

The heads train in a minute on these arrays, where the towers would take hours.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tokenizers import Tokenizer

from indexes.native import load_torch
from retrieval.encoders.mini import squash
from retrieval.encoders.mini_text import TextTower

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Captioned:
    """Photos' paths and, for each, as many captions as for every other."""

    photos: tuple[Path, ...]
    captions: tuple[tuple[str, ...], ...]


def read_captioned(folder: Path, split: str, captions: int = 5) -> Captioned:
    """One split of a data set, or 'all': `folder` holds images/ and captions.jsonl."""
    with (folder / "captions.jsonl").open(encoding="utf-8") as file:
        lines = [line for line in map(json.loads, file) if split in ("all", line["split"])]
    return Captioned(
        tuple(folder / "images" / line["image"] for line in lines),
        tuple(tuple(line["captions"][:captions]) for line in lines),
    )


def photo_features(
    photos: Sequence[Path], tower: Any, size: int, flip: bool = False, batch: int = 32
) -> NDArray[np.float16]:
    """What enters the tower's last convolution: float16 [n, cells, channels].

    `tower` is an `ImageTower`; `flip` mirrors every photo.
    """
    torch = load_torch()
    last: list[Any] = []
    hook = tower.top.register_forward_pre_hook(lambda _, inputs: last.append(inputs[0]))

    def squashed(path: Path) -> NDArray[np.uint8]:
        with Image.open(path) as photo:
            return np.asarray(squash(photo.convert("RGB"), size))

    rows = []
    with ThreadPoolExecutor(2) as threads, torch.inference_mode():
        for start in range(0, len(photos), batch):
            pixels = np.stack(list(threads.map(squashed, photos[start : start + batch])))
            last.clear()
            tower(torch.from_numpy(pixels[:, :, ::-1].copy() if flip else pixels))
            rows.append(last[0].permute(0, 2, 3, 1).flatten(1, 2).half().numpy())
    hook.remove()
    return np.concatenate(rows)


def imagenet_names() -> list[str]:
    """A short English name for each of the ImageNet classifier's 1,000 classes."""
    from timm.data.imagenet_info import ImageNetInfo

    info = ImageNetInfo()
    return [info.index_to_description(i, detailed=False).split(",")[0] for i in range(1000)]


def make_features(
    sets: Mapping[str, Captioned],
    image_tower: Any,
    text_weights: Mapping[str, NDArray[Any]],
    tokenizer: Path,
    size: int,
    cache: Path,
) -> Arrays:
    """Features of every set, from `cache` (an .npz) if it is there, else computed and kept there.

    Keys: `NAME.photos` [n, cells, channels], `NAME.texts` [5 n, 384], `train.mirrored` as photos,
    `classes` [1000, 384] for 'a photo of a CLASS'.
    """
    if cache.exists():
        with np.load(cache) as kept:
            return dict(kept)
    texts = TextTower(text_weights, Tokenizer.from_file(str(tokenizer)), heads=12, longest=128)
    arrays: Arrays = {
        "classes": texts.encode([f"a photo of a {name}" for name in imagenet_names()])
    }
    for name, captioned in sets.items():
        arrays[f"{name}.photos"] = photo_features(captioned.photos, image_tower, size)
        arrays[f"{name}.texts"] = texts.encode(sum(captioned.captions, ()))
    arrays["train.mirrored"] = photo_features(sets["train"].photos, image_tower, size, flip=True)
    cache.parent.mkdir(parents=True, exist_ok=True)
    np.savez(cache, allow_pickle=False, **arrays)
    return arrays
