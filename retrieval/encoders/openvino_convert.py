"""Convert the image tower of an open_clip model from torch to an OpenVINO graph.

Every conversion is checked: a graph that does not reproduce the module's embeddings is not used,
whatever the reason. Nothing is cached on disk: converting takes two to four seconds, less than
loading the module, and a cache would take as much room as the weights again.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from indexes.lazy_imports import load_openvino
from retrieval.encoders.openvino_runner import CompiledGraph

if TYPE_CHECKING:
    import openvino
    import torch
    from torch import nn

_BATCH_SIZE = 8  # photos a core computes at a time, so that it reads the weights once for all
_MIN_COSINE = 0.999  # between an embedding of the graph and of the module


def convert(module: nn.Module, size: int) -> CompiledGraph:
    """A graph that computes what `module` does: uint8 [n, size, size, 3] -> float32 [n, dim].

    module: returns unit rows. The graph uses bfloat16 or float16 if the processor is fast in it and
    the embeddings stay the same, else float32.
    Raises RuntimeError if the module cannot be converted or the graph computes something else.
    """
    import torch

    photos = _test_photos(size)
    with torch.inference_mode():
        expected = module(torch.from_numpy(photos)).numpy()
        model = _trace(module, torch.from_numpy(photos[:2]))
    model.reshape([-1, size, size, 3])
    for float32_only in (False, True) if _has_half_precision() else (True,):
        graph = CompiledGraph(model, _BATCH_SIZE, float32_only)
        cosine = float(np.sum(graph.run(photos) * expected, axis=1).min())
        if cosine >= _MIN_COSINE:
            return graph
    raise RuntimeError(f"its embeddings are not those of torch, cosine {cosine:.4f}")


def is_faster_than_torch() -> bool:
    """Whether OpenVINO is faster than torch on this processor for models of this kind.

    In float32 both reach the processor's limit.
    """
    try:
        return _has_half_precision()
    except (ImportError, RuntimeError):
        return False


def _has_half_precision() -> bool:
    """Whether the processor is faster in bfloat16 or float16."""
    capabilities = load_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "BF16" in capabilities or "FP16" in capabilities


def _test_photos(size: int) -> np.ndarray:
    """Eight images of smooth colours and noise, as prepared photos: uint8 [8, S, S, 3]."""
    random = np.random.default_rng(0)
    coarse = random.standard_normal((8, 8, 8, 3)).repeat(-(-size // 8), 1).repeat(-(-size // 8), 2)
    fine = random.standard_normal((8, size, size, 3))
    mixed = coarse[:, :size, :size] + np.linspace(0, 1, 8)[:, None, None, None] * fine
    return np.clip(127.5 + 64.0 * mixed, 0, 255).astype(np.uint8)


def _trace(module: nn.Module, example: torch.Tensor) -> openvino.Model:
    load_openvino()
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing warns about constants, which `convert` checks
        decoder: Any = TorchScriptPythonDecoder(module, example_input=(example,))
        frontend = FrontEndManager().load_by_framework("pytorch")
        return frontend.convert(frontend.load(decoder))
