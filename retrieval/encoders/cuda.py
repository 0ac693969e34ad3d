"""A graphics card from the outside: whether it can be used, what fits on it, how arrays get there.

Nothing here knows of models. The functions that count are pure; `Feed` also works for the CPU,
where sending is no more than stacking.
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

MOST = 256  # photos at a time; more do not make a card faster
_SHARE = 0.8  # of what is free: other programs want some, and memory is never without gaps


def cuda_error() -> str | None:
    """Why torch cannot use a card here, in a few words; None if it can, '' if there is no driver.

    Tries it: a driver that does not match and a card that is broken show only then.
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
            return short(error)
    return short(caught[0].message) if caught else "torch sees none"


def short(error: object) -> str:
    """The first sentence of an error of torch, which goes on with advice for programmers."""
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return line.partition(". ")[0][:200].rstrip(". ")


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether memory was all that a card lacked. Not every library under torch says so by type."""
    text = str(error).lower()
    return (
        isinstance(error, load_torch().OutOfMemoryError)
        or "out of memory" in text
        or "alloc_failed" in text
    )


def batch_size_for(bytes_each: float, free_bytes: int, most: int = MOST) -> int:
    """How many photos to compute at a time: a power of two, from 1 to `most`.

    bytes_each: what a photo takes while it is computed; free_bytes: what there is for all.
    """
    fit = int(_SHARE * free_bytes / max(bytes_each, 1.0))
    return min(most, 1 << max(fit.bit_length() - 1, 0))


def measure_batch_size(device: str, count: int, compute: Callable[[], object]) -> int:
    """`batch_size_for`, measured: `compute` computes `count` photos once, and waits for them."""
    torch = load_torch()
    if torch.device(device).type != "cuda":
        return MOST
    memory = torch.cuda
    memory.empty_cache()
    memory.reset_peak_memory_stats()
    before = memory.memory_allocated()
    compute()
    taken = memory.max_memory_allocated() - before
    memory.empty_cache()
    return batch_size_for(taken / count, memory.mem_get_info()[0])


class Feed:
    """Sends arrays to a device through two buffers in turn.

    On a card the buffers are page-locked and a stream of its own copies them: while one batch is
    computed, the next is gathered and sent. For one thread at a time.
    """

    def __init__(self, device: str) -> None:
        torch = load_torch()
        self._device = torch.device(device)
        self._on_card = self._device.type == "cuda"
        self._copies = torch.cuda.Stream(self._device) if self._on_card else None
        self._buffers = [_Buffer(), _Buffer()]

    def send(self, items: Sequence[Array]) -> Tensor:
        """n arrays of one shape and dtype as a tensor [n, ...] on the device.

        On the CPU it is the buffer itself, valid until the call after the next.
        """
        torch = load_torch()
        self._buffers.reverse()
        buffer = self._buffers[0]
        if buffer.sent is not None:
            buffer.sent.synchronize()
        batch = buffer.room(items, self._on_card)
        np.stack(items, out=batch.numpy())
        if not self._on_card:
            return batch
        with torch.cuda.stream(self._copies):
            there: Tensor = batch.to(self._device, non_blocking=True)
            buffer.sent = torch.cuda.Event()
            buffer.sent.record()
        computing = torch.cuda.current_stream(self._device)
        computing.wait_event(buffer.sent)
        there.record_stream(computing)  # its memory is not free again before it was computed
        return there


@dataclass
class _Buffer:
    """Host memory that grows to the largest batch; `sent` is reached when it may be overwritten."""

    memory: Tensor | None = None
    sent: Event | None = None

    def room(self, items: Sequence[Array], pinned: bool) -> Tensor:
        torch = load_torch()
        shape, dtype = items[0].shape, torch.from_numpy(items[0]).dtype
        memory = self.memory
        if (
            memory is None
            or len(memory) < len(items)
            or memory.shape[1:] != shape
            or memory.dtype != dtype
        ):
            memory = torch.empty((len(items), *shape), dtype=dtype, pin_memory=pinned)
        self.memory = memory
        return memory[: len(items)]


class Fetch:
    """Rows that a device may still be computing; `wait` gives them as an array."""

    def __init__(self, rows: Tensor) -> None:
        torch = load_torch()
        self._rows, self._arrived = rows, None
        if rows.device.type == "cuda":
            self._rows = torch.empty(rows.shape, dtype=rows.dtype, pin_memory=True)
            self._rows.copy_(rows, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def wait(self) -> Floats:
        """float32 [n, dim]. Raises RuntimeError where computing them failed after all."""
        if self._arrived is None:
            here: Floats = self._rows.numpy()
            return here
        self._arrived.synchronize()
        return self._rows.numpy().copy()  # the page-locked memory is wanted again
