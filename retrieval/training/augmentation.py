"""Augmented views of photos, the input of a training run's photo side.

If the first blocks of the tower are frozen, a few views of every photo pass through them once and
are stored in a file; if all blocks are trained, every epoch has new views. A view depends only on
the seed, its number and the photo's position, so a run is reproducible.
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
from indexes.atomic_write import atomic_write
from indexes.errors import RetrievalError
from indexes.lazy_imports import load_torch
from retrieval.encoders.mini.encoder import squash
from retrieval.training.captioned_images import LoadImage
from retrieval.training.config import Recipe
from retrieval.training.dual_encoder import DualEncoder
from retrieval.training.run import TrainingRun

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = load_torch()


_BATCH = 50  # photos that pass through the frozen blocks together


class Views(Protocol):
    """Inputs of the trained part of the photo tower."""

    def batch(self, epoch: int, chosen: Ints) -> Tensor:
        """One view of each chosen photo, a different one every epoch."""
        ...


def augmented(
    photo: Image.Image, size: int, recipe: Recipe, random: np.random.Generator
) -> Image.Image:
    """A random crop, perhaps mirrored, with jittered colours and sometimes one more distortion."""
    width, height = photo.size
    share, shape = random.uniform(recipe.crop, 1.0), np.exp(random.uniform(-0.25, 0.25))
    w = min(width, width * float(np.sqrt(share * shape)))
    h = min(height, height * float(np.sqrt(share / shape)))
    left, above = random.uniform(0, width - w), random.uniform(0, height - h)
    box = (left, above, left + w, above + h)
    photo = photo.resize((size, size), Image.Resampling.BICUBIC, box, reducing_gap=2.0)
    if random.random() < 0.5:
        photo = ImageOps.mirror(photo)
    for change in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        photo = change(photo).enhance(random.uniform(1 - recipe.colour, 1 + recipe.colour))
    return _distorted(photo, random) if random.random() < recipe.distort else photo


def _distorted(photo: Image.Image, random: np.random.Generator) -> Image.Image:
    """One of RandAugment's distortions (Cubuk et al., 2020), of those that leave a caption true."""
    kind = int(random.integers(6))
    if kind == 0:
        return ImageOps.autocontrast(photo)
    if kind == 1:
        return ImageOps.equalize(photo)
    if kind == 2:
        return ImageOps.posterize(photo, int(random.integers(4, 7)))
    if kind == 3:
        return ImageOps.grayscale(photo).convert("RGB")
    if kind == 4:
        return ImageEnhance.Sharpness(photo).enhance(random.uniform(0.1, 1.9))
    return photo.rotate(
        random.uniform(-15, 15), Image.Resampling.BILINEAR, fillcolor=(124, 116, 104)
    )


class _Loader:
    """Decodes photos in a few threads: uint8 [n, size, size, 3]."""

    def __init__(self, photos: Sequence[LoadImage], size: int, recipe: Recipe, seed: int) -> None:
        self.photos, self.size, self.recipe, self.seed = photos, size, recipe, seed
        self.threads = ThreadPoolExecutor(4)
        self.background = ThreadPoolExecutor(1)

    def load(self, view: int, chosen: Ints) -> NDArray[np.uint8]:
        """View 0 is the photo without augmentation."""

        def one(number: int) -> NDArray[np.uint8]:
            photo = self.photos[number]()
            if view == 0:
                return np.asarray(squash(photo, self.size))
            random = np.random.default_rng((self.seed, view, number))
            return np.asarray(augmented(photo, self.size, self.recipe, random))

        return np.stack(list(self.threads.map(one, chosen.tolist())))

    def start(self, view: int, chosen: Ints) -> Future[NDArray[np.uint8]]:
        """Call `load` in the background."""
        return self.background.submit(self.load, view, chosen)


class StoredViews:
    """Views after the frozen blocks, from a file: float16 [views, n, h, w, c]."""

    def __init__(self, stored: NDArray[np.float16], device: str) -> None:
        self.stored, self.device = stored, device

    def batch(self, epoch: int, chosen: Ints) -> Tensor:
        # After as many epochs as there are views, every view of a photo was used once.
        view = (epoch + chosen) % len(self.stored)
        rows = self.stored[view, chosen]
        return torch.from_numpy(rows).to(self.device, non_blocking=True).float()


class FreshViews:
    """New views every epoch, decoded while the model works on the previous batch."""

    def __init__(self, loader: _Loader, device: str) -> None:
        self.loader, self.device = loader, device
        self.waiting: dict[tuple[int, bytes], Future[NDArray[np.uint8]]] = {}

    def expect(self, epoch: int, chosen: Ints) -> None:
        """Start to load a batch that will be requested."""
        self.waiting[epoch, chosen.tobytes()] = self.loader.start(epoch + 1, chosen)

    def batch(self, epoch: int, chosen: Ints) -> Tensor:
        waiting = self.waiting.pop((epoch, chosen.tobytes()), None)
        pixels = waiting.result() if waiting else self.loader.load(epoch + 1, chosen)
        return torch.from_numpy(pixels).to(self.device, non_blocking=True)


def make_views(
    model: DualEncoder, photos: Sequence[LoadImage], begin: int, run: TrainingRun
) -> Views:
    """Augmented views; stored in the run's folder if the blocks before `begin` are frozen."""
    loader = _Loader(photos, model.config["image"]["size"], run.recipe, run.seed)
    if begin == 0:
        return FreshViews(loader, run.device)
    numbers = range(1, run.recipe.views + 1)
    return StoredViews(_store(model, loader, numbers, begin, "views.npy", run), run.device)


def unaugmented_views(
    model: DualEncoder, photos: Sequence[LoadImage], begin: int, name: str, run: TrainingRun
) -> Array:
    """Photos without augmentation after the frozen blocks, float16 [n, h, w, c].

    They are stored in the run's file `name`. If nothing is frozen, the photos themselves: uint8
    [n, size, size, 3].
    """
    loader = _Loader(photos, model.config["image"]["size"], run.recipe, 0)
    views: Array = _store(model, loader, range(1), begin, name, run)[0]
    return views


def _store(
    model: DualEncoder,
    loader: _Loader,
    views: Sequence[int],
    begin: int,
    name: str,
    run: TrainingRun,
) -> Array:
    """The input of block `begin` for these views of all photos, read from a file if it exists.

    name: of the file in the run's folder.
    """
    file = run.folder / name
    if file.exists():
        return _mapped(file)
    total = len(loader.photos)
    batches = [
        (position, view, np.arange(start, min(start + _BATCH, total)))
        for position, view in enumerate(views)
        for start in range(0, total, _BATCH)
    ]
    file.parent.mkdir(parents=True, exist_ok=True)
    frozen = _frozen(model, begin, run.device)
    with atomic_write(file) as temporary:
        stored: Any = None
        loading = loader.start(batches[0][1], batches[0][2])
        done = 0
        for number, (position, _, chosen) in enumerate(batches):
            photos = loading.result()
            if number + 1 < len(batches):
                loading = loader.start(*batches[number + 1][1:])
            rows = frozen(photos) if begin else photos
            if stored is None:
                shape = (len(views), total, *rows.shape[1:])
                _check_space(file.parent, rows.itemsize * int(np.prod(shape)))
                stored = np.lib.format.open_memmap(temporary, "w+", rows.dtype, shape)
            stored[position, chosen] = rows
            done += len(chosen)
            run.progress("Preparing photos", done, total * len(views))
        stored.flush()
        del stored  # Windows cannot rename a file that is mapped
    return _mapped(file)


def _mapped(file: Path) -> Array:
    rows: Array = np.load(file, mmap_mode="r", allow_pickle=False)
    return rows


def _frozen(
    model: DualEncoder, begin: int, device: str
) -> Callable[[NDArray[np.uint8]], NDArray[np.float16]]:
    """The blocks before `begin` as a function of photos; by OpenVINO if it is installed.

    On a CPU it is about twice as fast as torch, with the same results up to float32 rounding.
    """

    class FrozenBlocks(torch.nn.Module):
        def forward(self, photos: Tensor) -> Tensor:
            return model.frozen_features(photos, begin)

    if device == "cpu" and begin:
        try:
            import openvino

            size = model.config["image"]["size"]
            example = torch.zeros(2, size, size, 3, dtype=torch.uint8)
            with warnings.catch_warnings():
                # Tracing warns of sizes; none here depends on the photos.
                warnings.simplefilter("ignore")
                graph = openvino.convert_model(FrozenBlocks().eval(), example_input=example)
            graph.reshape([-1, size, size, 3])
            options = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": "f32"}
            options["INFERENCE_NUM_THREADS"] = str(torch.get_num_threads())
            compiled = openvino.compile_model(graph, "CPU", options)
        except Exception:  # not installed, or this processor is not supported: torch does the same
            compiled = None
        if compiled is not None:
            return lambda photos: compiled(photos)[0].astype(np.float16)

    def by_torch(photos: NDArray[np.uint8]) -> NDArray[np.float16]:
        with torch.inference_mode():
            rows = model.frozen_features(torch.from_numpy(photos).to(device), begin)
            result: NDArray[np.float16] = rows.half().cpu().numpy()
        return result

    return by_torch


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free - 2**28:
        raise RetrievalError(
            f"The prepared photos need {needed / 1e9:.1f} GB in {folder}, but only "
            f"{free / 1e9:.1f} GB are free. Free some space, or use a smaller --set views=N."
        )
