"""What the photo side of a training run learns from: augmented views of the photos.

Where the first blocks of the tower are frozen, a few views of every photo go through them once and
are kept in a file; where all of it learns, every epoch makes its views anew. Every view depends on
nothing but the seed, its number and the photo's place, so that a run can be made again.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps

from indexes.arrays import Array, Ints
from indexes.errors import RetrievalError
from indexes.lazy_imports import load_torch
from retrieval.encoders.mini.encoder import squash
from retrieval.training.config import Recipe
from retrieval.training.dual_encoder import DualEncoder
from retrieval.training.examples import Opener, Progress

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = load_torch()


class Views(Protocol):
    """Inputs of the part of the tower that learns."""

    def batch(self, epoch: int, chosen: Ints) -> Tensor:
        """One view of each chosen photo, another one every epoch."""
        ...


def augmented(
    photo: Image.Image, size: int, recipe: Recipe, chance: np.random.Generator
) -> Image.Image:
    """A random crop, mirrored or not, with other colours, and now and then one change more."""
    width, height = photo.size
    share, shape = chance.uniform(recipe.crop, 1.0), np.exp(chance.uniform(-0.25, 0.25))
    w = min(width, width * float(np.sqrt(share * shape)))
    h = min(height, height * float(np.sqrt(share / shape)))
    left, above = chance.uniform(0, width - w), chance.uniform(0, height - h)
    box = (left, above, left + w, above + h)
    photo = photo.resize((size, size), Image.Resampling.BICUBIC, box, reducing_gap=2.0)
    if chance.random() < 0.5:
        photo = ImageOps.mirror(photo)
    for change in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        photo = change(photo).enhance(chance.uniform(1 - recipe.colour, 1 + recipe.colour))
    return _distorted(photo, chance) if chance.random() < recipe.distort else photo


def _distorted(photo: Image.Image, chance: np.random.Generator) -> Image.Image:
    """One of RandAugment's changes (Cubuk et al., 2020) that leave a caption true."""
    kind = int(chance.integers(6))
    if kind == 0:
        return ImageOps.autocontrast(photo)
    if kind == 1:
        return ImageOps.equalize(photo)
    if kind == 2:
        return ImageOps.posterize(photo, int(chance.integers(4, 7)))
    if kind == 3:
        return ImageOps.grayscale(photo).convert("RGB")
    if kind == 4:
        return ImageEnhance.Sharpness(photo).enhance(chance.uniform(0.1, 1.9))
    return photo.rotate(
        chance.uniform(-15, 15), Image.Resampling.BILINEAR, fillcolor=(124, 116, 104)
    )


class _Pixels:
    """Photos decoded by a few threads: uint8 [n, size, size, 3]."""

    def __init__(self, photos: Sequence[Opener], size: int, recipe: Recipe, seed: int) -> None:
        self.photos, self.size, self.recipe, self.seed = photos, size, recipe, seed
        self.threads = ThreadPoolExecutor(4)
        self.loader = ThreadPoolExecutor(1)

    def load(self, view: int, chosen: Ints) -> NDArray[np.uint8]:
        """View 0 is the whole photo; the others are augmented."""

        def one(number: int) -> NDArray[np.uint8]:
            photo = self.photos[number]()
            if view == 0:
                return np.asarray(squash(photo, self.size))
            chance = np.random.default_rng((self.seed, view, number))
            return np.asarray(augmented(photo, self.size, self.recipe, chance))

        return np.stack(list(self.threads.map(one, chosen.tolist())))

    def ahead(self, view: int, chosen: Ints) -> Future[NDArray[np.uint8]]:
        """`load`, in the background."""
        return self.loader.submit(self.load, view, chosen)


class KeptViews:
    """Views that went through the frozen blocks once, in a file: float16 [views, n, h, w, c]."""

    def __init__(self, kept: NDArray[np.float16], device: str) -> None:
        self.kept, self.device = kept, device

    def batch(self, epoch: int, chosen: Ints) -> Tensor:
        # Another view of every photo each epoch; all of them once in as many epochs.
        view = (epoch + chosen) % len(self.kept)
        rows = self.kept[view, chosen]
        return torch.from_numpy(rows).to(self.device, non_blocking=True).float()


class FreshViews:
    """Views made anew every epoch, decoded while the model works on the batch before."""

    def __init__(self, pixels: _Pixels, device: str) -> None:
        self.pixels, self.device = pixels, device
        self.waiting: dict[tuple[int, bytes], Future[NDArray[np.uint8]]] = {}

    def expect(self, epoch: int, chosen: Ints) -> None:
        """Begin to load a batch that will be asked for."""
        self.waiting[epoch, chosen.tobytes()] = self.pixels.ahead(epoch + 1, chosen)

    def batch(self, epoch: int, chosen: Ints) -> Tensor:
        waiting = self.waiting.pop((epoch, chosen.tobytes()), None)
        pixels = waiting.result() if waiting else self.pixels.load(epoch + 1, chosen)
        return torch.from_numpy(pixels).to(self.device, non_blocking=True)


def make_views(
    model: DualEncoder,
    photos: Sequence[Opener],
    recipe: Recipe,
    seed: int,
    begin: int,
    keep: Path,
    device: str,
    progress: Progress,
) -> Views:
    """Views for training: kept in the folder `keep` if blocks before `begin` are frozen."""
    size = model.config["image"]["size"]
    pixels = _Pixels(photos, size, recipe, seed)
    if begin == 0:
        return FreshViews(pixels, device)
    numbers = range(1, recipe.views + 1)
    return KeptViews(
        _kept(model, pixels, numbers, begin, keep / "views.npy", device, progress), device
    )


def clean_views(
    model: DualEncoder,
    photos: Sequence[Opener],
    recipe: Recipe,
    begin: int,
    keep: Path,
    name: str,
    device: str,
    progress: Progress,
) -> Array:
    """The whole photos through the frozen blocks, in a file: float16 [n, h, w, c].

    Where nothing is frozen, the photos themselves: uint8 [n, size, size, 3].
    """
    pixels = _Pixels(photos, model.config["image"]["size"], recipe, 0)
    kept: Array = _kept(model, pixels, range(1), begin, keep / f"{name}.npy", device, progress)[0]
    return kept


def _kept(
    model: DualEncoder,
    pixels: _Pixels,
    views: Sequence[int],
    begin: int,
    file: Path,
    device: str,
    progress: Progress,
    batch: int = 50,
) -> Array:
    """What enters block `begin` for these views of all photos, from `file` if it is there."""
    if file.exists():
        return _mapped(file)
    total = len(pixels.photos)
    part = file.with_suffix(".tmp")
    kept: Any = None
    parts = [
        (position, view, np.arange(start, min(start + batch, total)))
        for position, view in enumerate(views)
        for start in range(0, total, batch)
    ]
    file.parent.mkdir(parents=True, exist_ok=True)
    frozen = _frozen(model, begin, device)
    waiting = pixels.ahead(parts[0][1], parts[0][2])
    done = 0
    for number, (position, _, chosen) in enumerate(parts):
        ready = waiting.result()
        if number + 1 < len(parts):
            waiting = pixels.ahead(*parts[number + 1][1:])
        rows = frozen(ready) if begin else ready
        if kept is None:
            shape = (len(views), total, *rows.shape[1:])
            _check_space(file.parent, rows.itemsize * int(np.prod(shape)))
            kept = np.lib.format.open_memmap(part, "w+", rows.dtype, shape)
        kept[position, chosen] = rows
        done += len(chosen)
        progress("Preparing photos", done, total * len(views))
    kept.flush()
    part.replace(file)
    return _mapped(file)


def _mapped(file: Path) -> Array:
    rows: Array = np.load(file, mmap_mode="r", allow_pickle=False)
    return rows


def _frozen(
    model: DualEncoder, begin: int, device: str
) -> Callable[[NDArray[np.uint8]], NDArray[np.float16]]:
    """The blocks before `begin` as a function of photos; through OpenVINO where it is installed.

    On a CPU that is about twice as fast as torch, whose results it repeats to float32's rounding.
    """

    class Begin(torch.nn.Module):
        def forward(self, photos: Tensor) -> Tensor:
            return model.begin(photos, begin)

    if device == "cpu" and begin:
        try:
            import openvino

            size = model.config["image"]["size"]
            example = torch.zeros(2, size, size, 3, dtype=torch.uint8)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of tracing: no size here depends on the photos
                graph = openvino.convert_model(Begin().eval(), example_input=example)
            graph.reshape([-1, size, size, 3])
            options = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": "f32"}
            options["INFERENCE_NUM_THREADS"] = str(torch.get_num_threads())
            compiled = openvino.compile_model(graph, "CPU", options)
        except Exception:  # not installed, or it does not know this processor: torch does
            compiled = None
        if compiled is not None:
            return lambda photos: compiled(photos)[0].astype(np.float16)

    def by_torch(photos: NDArray[np.uint8]) -> NDArray[np.float16]:
        with torch.inference_mode():
            rows = model.begin(torch.from_numpy(photos).to(device), begin)
            result: NDArray[np.float16] = rows.half().cpu().numpy()
        return result

    return by_torch


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free - 2**28:
        raise RetrievalError(
            f"Preparing the photos needs {needed / 1e9:.1f} GB in {folder}, where {free / 1e9:.1f} "
            "GB are free. Make room, or use fewer --set views=N."
        )
