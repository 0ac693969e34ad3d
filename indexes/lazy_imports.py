"""Imports of torch, FAISS, OpenVINO and sqlite-utils: libraries to be imported with care.

The `faiss-gpu` wheel carries CUDA 12, current torch wheels CUDA 13. Loading FAISS first has been
reported to crash the process on machines with an NVIDIA driver. If there is a driver, torch is
therefore imported first; elsewhere FAISS is imported alone, which saves a search the time for
torch.

FAISS's threads would wait for each other by spinning, which takes the processor from the one that
they wait for where other programs use it, too: a search took 31 ms instead of 4. It reads how to
wait from the environment when it is loaded.

OpenVINO reports to its makers that it was imported, unless its telemetry cannot be imported.
"""

import ctypes
import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
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
    """Import torch, which takes seconds and hundreds of MiB."""
    import torch

    return torch


@cache
def load_faiss() -> ModuleType:
    """Import FAISS, after torch if a GPU driver makes the order matter."""
    if has_nvidia_driver():
        load_torch()
    with _environment("OMP_WAIT_POLICY", "passive"):
        return importlib.import_module("faiss")


@cache
def load_openvino() -> ModuleType:
    """Import OpenVINO (0.2 seconds), without its telemetry and its converters.

    Raises ImportError if it is not installed or cannot be loaded.
    """
    with _hidden("openvino_telemetry", "openvino.tools.ovc"):
        return importlib.import_module("openvino")


@cache
def load_sqlite_utils() -> ModuleType:
    """Import sqlite-utils, without pandas, which it would import wherever that is installed."""
    with _hidden("pandas"):
        return importlib.import_module("sqlite_utils")


@contextmanager
def _hidden(*names: str) -> Iterator[None]:
    """Make these modules look as if not installed, except those that are imported already."""
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: cannot be imported
    try:
        yield
    finally:
        for name in hidden:
            sys.modules.pop(name, None)


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """Set a variable of the environment, unless the user has set it."""
    if name in os.environ:
        yield
        return
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]
