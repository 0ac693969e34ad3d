"""Which engine computes embeddings, on which device, and what to fall back to.

A choice that this machine cannot meet is reported in one sentence and never stops a run: torch on
the CPU can compute every model.
"""

from __future__ import annotations

import importlib.util
import platform
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar, get_args

from retrieval.encoders.base import DeviceName, EngineName, Log
from retrieval.encoders.cuda import cuda_error
from retrieval.errors import QueryError

T = TypeVar("T")


@dataclass(frozen=True)
class Compute:
    """How to compute embeddings.

    engine: `openvino` (CPU only), `torch`, or `auto`, the faster of the two. device: `cuda`,
    `cpu`, or `auto`, whichever suits the model best. compile: use torch.compile on a GPU, which
    costs a minute at the start. Raises QueryError for a combination that is not supported.
    """

    engine: EngineName = "auto"
    device: DeviceName = "auto"
    compile: bool = False

    def __post_init__(self) -> None:
        for option, value, names in (
            ("engine", self.engine, get_args(EngineName)),
            ("device", self.device, get_args(DeviceName)),
        ):
            if value not in names:
                raise QueryError(f"There is no {option} '{value}'. Choose {' or '.join(names)}.")
        if self.engine == "openvino" and self.device == "cuda":
            raise QueryError(
                "The openvino engine does not run on NVIDIA GPUs. Leave out --engine, or use "
                "--device cpu."
            )


def torch_device(compute: Compute, log: Log) -> str:
    """`cuda` if `compute` allows it and a GPU works, else `cpu`.

    log: receives a sentence if a GPU was requested, or has a driver, but cannot be used.
    """
    if compute.device == "cpu" or compute.engine == "openvino":
        return "cpu"
    error = cuda_error()
    if error is None:
        return "cuda"
    if error:
        log(f"There is an NVIDIA driver, but torch cannot use it ({error}): using the CPU.")
    elif compute.device == "cuda":
        log("torch finds no NVIDIA GPU that it can use here: using the CPU.")
    return "cpu"


def build_with_openvino(compute: Compute, build: Callable[[], T], log: Log) -> T | None:
    """The result of `build`, which uses OpenVINO; None where torch has to be used instead.

    log: receives a sentence if OpenVINO was requested but is missing, or if `build` fails.
    """
    if compute.engine == "torch":
        return None
    if importlib.util.find_spec("openvino") is None:
        if compute.engine == "openvino":
            log("OpenVINO is not installed (`pip install openvino`): using torch instead.")
        return None
    if compute.engine == "auto" and platform.machine() not in ("x86_64", "AMD64"):
        return None  # on other processors torch is not known to be slower
    try:
        return build()
    except (ImportError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200].rstrip(".")
        log(f"OpenVINO cannot compute this model here ({reason}): using torch instead.")
        return None
