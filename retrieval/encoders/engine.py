"""What computes embeddings: which engine, on which device, and what to fall back to.

A wish that cannot be met is told in a sentence and never stops a run: torch on the CPU can
compute every model.
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

Built = TypeVar("Built")


@dataclass(frozen=True)
class Compute:
    """engine: `openvino` (CPU only), `torch`, or `auto`, the faster one; device: `cuda`, `cpu`, or
    `auto`, what the model gains most from; compile: with torch.compile on a GPU, which costs a
    minute at the start. Raises QueryError for what does not go together.
    """

    engine: EngineName = "auto"
    device: DeviceName = "auto"
    compile: bool = False

    def __post_init__(self) -> None:
        for what, value, names in (
            ("engine", self.engine, get_args(EngineName)),
            ("device", self.device, get_args(DeviceName)),
        ):
            if value not in names:
                raise QueryError(f"There is no {what} '{value}'. Choose {' or '.join(names)}.")
        if self.engine == "openvino" and self.device == "cuda":
            raise QueryError(
                "The openvino engine does not compute on an NVIDIA GPU. Leave --engine out, or use "
                "--device cpu."
            )


def torch_device(compute: Compute, log: Log) -> str:
    """`cuda` if it is wished for and there, or `auto` and there; else `cpu`."""
    if compute.device == "cpu" or compute.engine == "openvino":
        return "cpu"
    reason = cuda_error()
    if reason is None:
        return "cuda"
    if reason:
        log(f"There is an NVIDIA driver, but torch cannot use it ({reason}): computing on the CPU.")
    elif compute.device == "cuda":
        log("torch finds no NVIDIA GPU that it can use here: computing on the CPU.")
    return "cpu"


def with_openvino(compute: Compute, build: Callable[[], Built], log: Log) -> Built | None:
    """What `build` makes with OpenVINO; None, told in a sentence, where torch has to do."""
    if compute.engine == "torch":
        return None
    if importlib.util.find_spec("openvino") is None:
        if compute.engine == "openvino":
            log("OpenVINO is not installed (`pip install openvino`): using torch instead.")
        return None
    if compute.engine == "auto" and platform.machine() not in ("x86_64", "AMD64"):
        return None  # elsewhere torch is not known to be slower
    try:
        return build()
    except (ImportError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200].rstrip(".")
        log(f"OpenVINO cannot compute this model here ({reason}): using torch instead.")
        return None
