"""Run a torch module over many photos or texts, on the GPU, falling back to the CPU if it fails.

A GPU that runs out of memory gets smaller batches. A GPU that fails is reported in one sentence;
the CPU then computes that batch again and all later ones, and nothing is lost.

cuDNN prepares itself for each length of a batch, and again in each thread: seconds for a network of
many convolutions. So one thread of its own does all computing on a GPU, and batches are filled up
to few lengths.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from indexes.arrays import Array, Floats
from indexes.lazy_imports import load_torch
from retrieval.encoders.base import Log
from retrieval.encoders.cuda import (
    Download,
    Uploader,
    first_sentence,
    is_out_of_memory,
    measure_batch_size,
)

if TYPE_CHECKING:
    from torch import nn

Forward = Callable[[Any, Any], Any]
"""(module, batch [n, ...]) -> float32 [n, dim], both on one device."""

_LENGTHS = (1, 4, 16, 64, 256)  # of batches on a GPU, besides the largest that fits
_PROBE_SIZE = 16  # photos computed to measure the memory that one takes


class ModuleRunner:
    """A torch module and the device that it is on. Safe to call from several threads.

    While one thread waits for its rows, the batch of the next is already sent to the GPU.
    """

    def __init__(
        self,
        build: Callable[[], nn.Module],
        device: str,
        cpu_batch_size: int,
        log: Log = lambda _: None,
        bf16: bool = False,
        compile: bool = False,
    ) -> None:
        """build: creates the module on the CPU; called again if a GPU fails, because nothing can
        be copied from it then. cpu_batch_size: items that the CPU computes at a time. bf16: on a
        GPU, compute in bfloat16 where autocast allows it. compile: on a GPU, use torch.compile.
        """
        self._build, self._cpu_batch_size, self._log = build, cpu_batch_size, log
        self._bf16 = bf16
        self._lock = threading.Lock()
        # Without a task it has no thread, so the CPU never gets one.
        self._gpu_thread = ThreadPoolExecutor(1, thread_name_prefix="gpu")
        self._place(device, compile)

    def _place(self, device: str, compile: bool) -> None:
        """Build the module on a device, or on the CPU if the GPU has no room for it."""
        try:
            module = self._build()
            if device != "cpu":
                module = module.to(device).to(memory_format=load_torch().channels_last)
                if compile:
                    module.compile()
        except RuntimeError as error:
            if device == "cpu":
                raise
            self._fall_back_to_cpu(first_sentence(error))
            return
        self.module, self.device, self._compiled = module, device, compile
        self._uploader = Uploader(device)
        self._batch_sizes: dict[Forward, int] = {}

    def run(self, forward: Forward, items: Sequence[Array]) -> Floats:
        """Apply `forward` to n ≥ 1 arrays of one shape: float32 [n, dim].

        Raises RuntimeError if the CPU fails, too.
        """
        while True:
            with self._lock:
                device, download = self.device, None
                size = self._batch_sizes.get(forward, _PROBE_SIZE)
                try:
                    size = self._batch_size(forward, items)
                    download = self._submit(forward, items, size)
                except RuntimeError as error:
                    if device == "cpu":
                        raise
                    reason, out_of_memory = first_sentence(error), is_out_of_memory(error)
                # Outside `except`: the error's traceback would keep GPU memory in use.
                if download is None:
                    self._recover(forward, size, reason, out_of_memory)
                    continue
            try:
                return download.wait()
            except RuntimeError as error:
                if device == "cpu":
                    raise
                reason = first_sentence(error)
            with self._lock:
                if self.device == device:  # else another thread has fallen back already
                    self._fall_back_to_cpu(reason)

    def _submit(self, forward: Forward, items: Sequence[Array], size: int) -> Download:
        """Start computing all items, `size` at a time, without waiting for a GPU to finish."""
        if self.device == "cpu":
            return self._compute(forward, items, size)
        return self._gpu_thread.submit(self._compute, forward, items, size).result()

    def _compute(self, forward: Forward, items: Sequence[Array], size: int) -> Download:
        torch = load_torch()
        device_type = torch.device(self.device).type
        use_bf16 = self._bf16 and self.device != "cpu"
        rows = []
        with (
            torch.inference_mode(),
            torch.autocast(device_type, torch.bfloat16, enabled=use_bf16),
        ):
            for start in range(0, len(items), size):
                some = items[start : start + size]
                length = len(some) if self.device == "cpu" else _filled_up(len(some), size)
                batch = self._uploader.send(some, length)
                rows.append(forward(self.module, batch)[: len(some)].float())
            return Download(torch.cat(rows))

    def _batch_size(self, forward: Forward, items: Sequence[Array]) -> int:
        """How many items to compute at a time; measured on a GPU with a small probe."""
        if self.device == "cpu":
            return self._cpu_batch_size
        if forward not in self._batch_sizes and len(items) > _PROBE_SIZE:
            probe = items[:_PROBE_SIZE]
            self._batch_sizes[forward] = measure_batch_size(
                self.device, _PROBE_SIZE, lambda: self._submit(forward, probe, _PROBE_SIZE).wait()
            )
        return self._batch_sizes.get(forward, _PROBE_SIZE)

    def _recover(self, forward: Forward, size: int, reason: str, out_of_memory: bool) -> None:
        """Halve the batch, or continue without torch.compile, or fall back to the CPU."""
        if out_of_memory and size > 1:
            self._batch_sizes[forward] = size // 2
            load_torch().cuda.empty_cache()
        elif out_of_memory:
            self._fall_back_to_cpu("it has no memory left for even one photo")
        elif self._compiled:  # perhaps only the compiler failed
            self._log(f"The compiled model fails ({reason}): continuing without torch.compile.")
            self._place(self.device, False)
        else:
            self._fall_back_to_cpu(reason)

    def _fall_back_to_cpu(self, reason: str) -> None:
        self._log(f"The GPU failed ({reason}): falling back to the CPU.")
        self._place("cpu", False)


def _filled_up(count: int, most: int) -> int:
    """The length of a batch on a GPU that holds so many items, of at most `most`."""
    return min(most, next((length for length in _LENGTHS if length >= count), most))
