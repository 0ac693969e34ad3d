"""Run an OpenVINO graph over many photos, on all cores of the CPU.

Each core computes its own photos, one small batch after the other. That suits the caches, keeps
threads from waiting for one another, and leaves room for the threads that decode.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from indexes.arrays import Array, Floats
from indexes.lazy_imports import load_openvino

if TYPE_CHECKING:
    from openvino import Model


class CompiledGraph:
    """A graph compiled for this CPU: one input [batch, ...], one output float32 [batch, dim].

    Safe to call from several threads; one call at a time is computed.
    """

    def __init__(self, model: Model, batch_size: int, float32_only: bool = True) -> None:
        """Compile `model` for batches of `batch_size`, which takes from 0.2 seconds to a few.

        float32_only: compute in float32. Otherwise OpenVINO may choose bfloat16 or float16 if the
        processor is faster in it. Raises RuntimeError if OpenVINO cannot compile the graph.
        """
        openvino = load_openvino()
        self._batch_size = batch_size
        self._lock = threading.Lock()
        shape = model.input(0).partial_shape
        shape[0] = batch_size
        model.reshape(shape)
        settings = {"PERFORMANCE_HINT": "THROUGHPUT", "ENABLE_CPU_PINNING": False}
        if float32_only:
            settings["INFERENCE_PRECISION_HINT"] = "f32"
        compiled = openvino.Core().compile_model(model, "CPU", settings)
        self.dim = int(compiled.output(0).shape[1])
        self._queue = openvino.AsyncInferQueue(compiled)
        self._queue.set_callback(_copy_rows)

    def run(self, photos: Array) -> Floats:
        """Compute n photos, [n, ...] as the graph's input: float32 [n, dim]."""
        count = len(photos)
        result = np.empty((count, self.dim), np.float32)
        with self._lock:
            for start in range(0, count, self._batch_size):
                batch = photos[start : start + self._batch_size]
                rows = result[start : start + len(batch)]
                if len(batch) < self._batch_size:
                    padding = (self._batch_size - len(batch), *batch.shape[1:])
                    batch = np.concatenate([batch, np.zeros(padding, batch.dtype)])
                self._queue.start_async({0: batch}, rows)
            self._queue.wait_all()
        return result


def _copy_rows(request: Any, rows: Floats) -> None:
    rows[:] = request.get_output_tensor(0).data[: len(rows)]
