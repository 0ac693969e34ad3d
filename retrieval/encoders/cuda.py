"""A GPU from the outside: whether it works, how large a batch fits, how arrays are transferred.

Nothing here knows about models. `Uploader` and `Download` also work on the CPU, where no transfer
is needed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from indexes.arrays import Array, Floats
from indexes.lazy_imports import has_nvidia_driver, load_torch

if TYPE_CHECKING:
    from torch import Tensor
    from torch.cuda import Event

MAX_BATCH_SIZE = 256  # larger batches do not make a GPU faster
_MEMORY_SHARE = 0.8  # of free memory: other programs need some, and some is lost to fragmentation


def cuda_error() -> str | None:
    """Why torch cannot use a GPU here, in a few words; None if it can, '' if there is no driver.

    It runs a small computation, because only that shows a mismatched driver or a broken GPU.
    """
    if not has_nvidia_driver():
        return ""
    torch = load_torch()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            if torch.cuda.is_available():
                torch.zeros(1, device="cuda").cpu()
                return None
        except RuntimeError as error:
            return first_sentence(error)
    return first_sentence(caught[0].message) if caught else "torch sees none"


def first_sentence(error: object) -> str:
    """The first sentence of a torch error, without the advice for programmers that follows it."""
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return line.partition(". ")[0][:200].rstrip(". ")


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether the GPU only ran out of memory. Not every library below torch has a type for that."""
    text = str(error).lower()
    return (
        isinstance(error, load_torch().OutOfMemoryError)
        or "out of memory" in text
        or "alloc_failed" in text
    )


def batch_size_for(bytes_each: float, free_bytes: int, limit: int = MAX_BATCH_SIZE) -> int:
    """How many photos to compute at a time: a power of two from 1 to `limit`.

    bytes_each: memory that one photo takes while it is computed; free_bytes: memory for all.
    """
    fit = int(_MEMORY_SHARE * free_bytes / max(bytes_each, 1.0))
    return min(limit, 1 << max(fit.bit_length() - 1, 0))


def measure_batch_size(device: str, count: int, compute: Callable[[], object]) -> int:
    """`batch_size_for` with measured memory.

    compute: computes `count` photos once, and waits until that is done.
    """
    torch = load_torch()
    if torch.device(device).type != "cuda":
        return MAX_BATCH_SIZE
    memory = torch.cuda
    memory.empty_cache()
    memory.reset_peak_memory_stats()
    before = memory.memory_allocated()
    compute()
    used = memory.max_memory_allocated() - before
    memory.empty_cache()
    return batch_size_for(used / count, memory.mem_get_info()[0])


class Uploader:
    """Sends arrays to a device through two staging buffers in turn.

    For a GPU the buffers are page-locked and copied on a stream of their own: while one batch is
    computed, the next is gathered and sent. To be used by one thread at a time.
    """

    def __init__(self, device: str) -> None:
        torch = load_torch()
        self._device = torch.device(device)
        self._is_gpu = self._device.type == "cuda"
        self._copy_stream = torch.cuda.Stream(self._device) if self._is_gpu else None
        self._buffers = [_StagingBuffer(), _StagingBuffer()]

    def send(self, items: Sequence[Array], length: int) -> Tensor:
        """Stack n arrays of one shape and dtype into a tensor [length, ...] on the device.

        length: at least n; zeros fill it up. On the CPU the result is the buffer itself, valid
        until the second call after this one.
        """
        torch = load_torch()
        self._buffers.reverse()
        buffer = self._buffers[0]
        if buffer.copied is not None:
            buffer.copied.synchronize()
        batch = buffer.view_for(items[0], length, self._is_gpu)
        np.stack(items, out=batch[: len(items)].numpy())
        batch[len(items) :] = 0
        if not self._is_gpu:
            return batch
        with torch.cuda.stream(self._copy_stream):
            on_gpu: Tensor = batch.to(self._device, non_blocking=True)
            buffer.copied = torch.cuda.Event()
            buffer.copied.record()
        compute_stream = torch.cuda.current_stream(self._device)
        compute_stream.wait_event(buffer.copied)
        on_gpu.record_stream(compute_stream)  # do not reuse its memory before it was computed
        return on_gpu


@dataclass
class _StagingBuffer:
    """Host memory that grows to the largest batch.

    copied: the event after which the memory may be overwritten.
    """

    memory: Tensor | None = None
    copied: Event | None = None

    def view_for(self, item: Array, length: int, pinned: bool) -> Tensor:
        """The part of the memory for so many items like this one: a tensor [length, ...]."""
        torch = load_torch()
        shape, dtype = item.shape, torch.from_numpy(item).dtype
        memory = self.memory
        if (
            memory is None
            or len(memory) < length
            or memory.shape[1:] != shape
            or memory.dtype != dtype
        ):
            memory = torch.empty((length, *shape), dtype=dtype, pin_memory=pinned)
        self.memory = memory
        return memory[:length]


class Download:
    """Rows that a device may still be computing; `wait` returns them as an array."""

    def __init__(self, rows: Tensor) -> None:
        torch = load_torch()
        self._rows, self._arrived = rows, None
        if rows.device.type == "cuda":
            self._rows = torch.empty(rows.shape, dtype=rows.dtype, pin_memory=True)
            self._rows.copy_(rows, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def wait(self) -> Floats:
        """float32 [n, dim]. Raises RuntimeError if the computation failed."""
        if self._arrived is None:
            rows: Floats = self._rows.numpy()
            return rows
        self._arrived.synchronize()
        return self._rows.numpy().copy()  # gives the page-locked memory back
