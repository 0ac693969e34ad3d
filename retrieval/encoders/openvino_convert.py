"""The image tower of an open_clip model as an OpenVINO graph, converted from the torch module.

Conversion is checked each time it is done: a graph that does not give the module's embeddings is
not used, whatever the reason. Nothing is kept on disk: converting costs two to four seconds, less
than loading the module, and a cache would take as much room as the weights once more.
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

_TILE = 8  # photos at a time on a core, for which the weights are read once
_AGREE = 0.999  # the least cosine between an embedding of the graph and of the module


def convert(module: nn.Module, size: int) -> CompiledGraph:
    """A graph that does what `module` does: uint8 [n, size, size, 3] -> float32 [n, dim].

    module: gives unit rows. In bfloat16 where the processor is fast in it and the embeddings do not
    suffer, else in float32.
    Raises RuntimeError where it cannot be converted or computes something else.
    """
    import torch

    probes = _probes(size)
    with torch.inference_mode():
        right = module(torch.from_numpy(probes)).numpy()
        model = _traced(module, torch.from_numpy(probes[:2]))
    model.reshape([-1, size, size, 3])
    for exact in (False, True) if _has_short_floats() else (True,):
        graph = CompiledGraph(model, _TILE, exact)
        cosine = float(np.sum(graph.run(probes) * right, axis=1).min())
        if cosine >= _AGREE:
            return graph
    raise RuntimeError(f"its embeddings are not those of torch, cosine {cosine:.4f}")


def gains() -> bool:
    """Whether OpenVINO is faster than torch here for models of this kind.

    In float32 both reach what the processor can do.
    """
    try:
        return _has_short_floats()
    except (ImportError, RuntimeError):
        return False


def _has_short_floats() -> bool:
    able = load_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "BF16" in able or "FP16" in able


def _probes(size: int) -> np.ndarray:
    """Eight pictures of smooth colours and noise, as prepared photos: uint8 [8, S, S, 3]."""
    random = np.random.default_rng(0)
    coarse = random.standard_normal((8, 8, 8, 3)).repeat(-(-size // 8), 1).repeat(-(-size // 8), 2)
    fine = random.standard_normal((8, size, size, 3))
    mixed = coarse[:, :size, :size] + np.linspace(0, 1, 8)[:, None, None, None] * fine
    return np.clip(127.5 + 64.0 * mixed, 0, 255).astype(np.uint8)


def _traced(module: nn.Module, example: torch.Tensor) -> openvino.Model:
    load_openvino()
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing warns of constants, which `convert` checks
        decoder: Any = TorchScriptPythonDecoder(module, example_input=(example,))
        frontend = FrontEndManager().load_by_framework("pytorch")
        return frontend.convert(frontend.load(decoder))
