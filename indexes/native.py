"""The one door to torch and FAISS, the two libraries that bring their own CUDA runtime.

The `faiss-gpu` wheel carries CUDA 12, current torch wheels CUDA 13; loading FAISS first is
reported to crash the process on machines with an NVIDIA driver. So where there is a driver torch
is imported first; elsewhere FAISS comes alone, which keeps a search from paying for torch.
"""

import ctypes
import sys
from functools import cache
from types import ModuleType


@cache
def has_nvidia_driver() -> bool:
    """Whether the NVIDIA driver library can be loaded on this machine."""
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


@cache
def load_torch() -> ModuleType:
    """Import torch (seconds, hundreds of MiB: call it only where it is needed)."""
    import torch

    return torch


@cache
def load_faiss() -> ModuleType:
    """Import FAISS, after torch where a GPU driver makes the order matter."""
    if has_nvidia_driver():
        load_torch()
    import faiss

    return faiss
