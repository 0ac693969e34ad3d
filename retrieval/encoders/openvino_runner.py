"""Run an OpenVINO graph over many photos, on all cores of the CPU.

Each core takes its own photos, one small batch after the other: that suits caches, needs no waiting
of threads for one another, and leaves room for the threads that decode.
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
    """A graph with one input, [tile, ...], and one output, float32 [tile, dim], compiled for here.

    Safe to call from several threads; one call at a time is computed.
    """

    def __init__(self, model: Model, tile: int, exact: bool = True) -> None:
        """Compile `model` for batches of `tile`, which takes from 0.2 seconds to a few.

        exact: compute in float32. Otherwise OpenVINO may choose bfloat16 or float16 where the
        processor is faster in it. Raises RuntimeError where OpenVINO cannot compile the graph.
        """
        openvino = load_openvino()
        self._tile = tile
        self._lock = threading.Lock()
        shape = model.input(0).partial_shape
        shape[0] = tile
        model.reshape(shape)
        settings = {"PERFORMANCE_HINT": "THROUGHPUT", "ENABLE_CPU_PINNING": False}
        if exact:
            settings["INFERENCE_PRECISION_HINT"] = "f32"
        compiled = openvino.Core().compile_model(model, "CPU", settings)
        self.dim = int(compiled.output(0).shape[1])
        self._queue = openvino.AsyncInferQueue(compiled)
        self._queue.set_callback(_keep)

    def run(self, photos: Array) -> Floats:
        """[n, ...] as the input has it -> float32 [n, dim]."""
        count = len(photos)
        result = np.empty((count, self.dim), np.float32)
        with self._lock:
            for start in range(0, count, self._tile):
                tile = photos[start : start + self._tile]
                rows = result[start : start + len(tile)]
                if len(tile) < self._tile:
                    missing = np.zeros((self._tile - len(tile), *tile.shape[1:]), tile.dtype)
                    tile = np.concatenate([tile, missing])
                self._queue.start_async({0: tile}, rows)
            self._queue.wait_all()
        return result


def _keep(request: Any, rows: Floats) -> None:
    rows[:] = request.get_output_tensor(0).data[: len(rows)]
