"""Run a torch module over many photos or texts, on a graphics card for as long as it lasts.

A card that is full gets smaller batches; one that fails is told of in a sentence, and the CPU does
that batch again and all that follow: nothing is lost.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from indexes.arrays import Array, Floats
from indexes.lazy_imports import load_torch
from retrieval.encoders.base import Log
from retrieval.encoders.cuda import Feed, Fetch, is_out_of_memory, measure_batch_size, short

if TYPE_CHECKING:
    from torch import nn

Forward = Callable[[Any, Any], Any]
"""(module, batch [n, ...]) -> float32 [n, dim], both on one device."""

_PROBE = 8  # photos that show what one takes


class ModuleRunner:
    """A module and the device that it is on. Safe to call from several threads.

    While a thread waits for its rows, the next one's batch is already on its way to the card.
    """

    def __init__(
        self,
        build: Callable[[], nn.Module],
        device: str,
        on_cpu: int,
        log: Log = lambda _: None,
        bf16: bool = False,
        compile: bool = False,
    ) -> None:
        """build: makes the module, on the CPU; called again where a card fails, since what was on
        it is gone. on_cpu: items that the CPU computes at a time. bf16: compute in bfloat16 where
        autocast may, on a card. compile: by torch.compile, there.
        """
        self._build, self._on_cpu, self._log, self._bf16 = build, on_cpu, log, bf16
        self._lock = threading.Lock()
        self._place(device, compile)

    def _place(self, device: str, compile: bool) -> None:
        """Begin on a device with a new module; on the CPU where the card has no room for it."""
        try:
            module = self._build()
            if device != "cpu":
                module = module.to(device).to(memory_format=load_torch().channels_last)
                if compile:
                    module.compile()
        except RuntimeError as error:
            if device == "cpu":
                raise
            self._leave(short(error))
            return
        self.module, self.device, self._compiled = module, device, compile
        self._feed = Feed(device)
        self._sizes: dict[Forward, int] = {}

    def run(self, forward: Forward, items: Sequence[Array]) -> Floats:
        """What `forward` makes of n ≥ 1 arrays of one shape: float32 [n, dim]."""
        while True:
            with self._lock:
                device, fetch = self.device, None
                size = min(len(items), self._sizes.get(forward, _PROBE))
                try:
                    size = min(len(items), self._size(forward, items))
                    fetch = self._start(forward, items, size)
                except RuntimeError as error:
                    if device == "cpu":
                        raise
                    reason, full = short(error), is_out_of_memory(error)
                if fetch is None:  # the error is gone by now, and what its frames held on the card
                    self._retreat(forward, size, reason, full)
                    continue
            try:
                return fetch.wait()
            except RuntimeError as error:
                if device == "cpu":
                    raise
                reason = short(error)
            with self._lock:
                if self.device == device:  # else another thread has left it
                    self._leave(reason)

    def _start(self, forward: Forward, items: Sequence[Array], size: int) -> Fetch:
        """Have all items computed, `size` at a time, without waiting for a card to finish."""
        torch = load_torch()
        kind = torch.device(self.device).type
        rows = []
        with (
            torch.inference_mode(),
            torch.autocast(kind, torch.bfloat16, enabled=self._bf16 and self.device != "cpu"),
        ):
            for start in range(0, len(items), size):
                batch = self._feed.send(items[start : start + size])
                rows.append(forward(self.module, batch).float())
            return Fetch(torch.cat(rows))

    def _size(self, forward: Forward, items: Sequence[Array]) -> int:
        """How many items to compute at a time; found on a card by trying with a few."""
        if self.device == "cpu":
            return self._on_cpu
        if forward not in self._sizes and len(items) > _PROBE:
            self._sizes[forward] = measure_batch_size(
                self.device, _PROBE, lambda: self._start(forward, items[:_PROBE], _PROBE).wait()
            )
        return self._sizes.get(forward, _PROBE)

    def _retreat(self, forward: Forward, size: int, reason: str, full: bool) -> None:
        """Ask less of a card that is full; compute without torch.compile; or leave the card."""
        if full and size > 1:
            self._sizes[forward] = size // 2
            load_torch().cuda.empty_cache()
        elif full:
            self._leave("no memory is left on it for even one photo at a time")
        elif self._compiled:  # it may be no more than the compiler
            self._log(f"The compiled model cannot be computed ({reason}): going on without.")
            self._place(self.device, False)
        else:
            self._leave(reason)

    def _leave(self, reason: str) -> None:
        """Go on on the CPU: nothing can be fetched from a card that failed."""
        self._log(f"The graphics card cannot go on ({reason}): computing on the CPU.")
        self._place("cpu", False)
