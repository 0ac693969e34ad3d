"""The checkpoint of a training run: written after every epoch, read to continue a stopped run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from indexes.atomic_write import atomic_write
from indexes.errors import RetrievalError
from indexes.lazy_imports import load_torch
from retrieval.encoders.openclip_files import check_checkpoint
from retrieval.training.config import Recipe

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
else:
    torch = load_torch()

State = dict[str, Any]


def write_checkpoint(file: Path, state: State) -> None:
    """Write what `read_checkpoint` reads; raises OSError."""
    with atomic_write(file) as temporary:
        torch.save(state, temporary)


def read_checkpoint(file: Path, recipe: Recipe, seed: int, device: str) -> State | None:
    """The checkpoint in `file`, None if there is none.

    Raises RetrievalError if it cannot be read, or is from a run with another recipe or seed.
    """
    if not file.exists():
        return None
    try:
        check_checkpoint(file)
        state: State = torch.load(file, map_location=device, weights_only=True)
        same = (state["recipe"], state["seed"]) == (recipe.to_json(), seed)
    except Exception as error:
        raise RetrievalError(
            f"The checkpoint {file} cannot be read. Delete it to train from the start."
        ) from error
    if not same:
        raise RetrievalError(
            f"{file.parent.parent} holds a run with other settings. Use the same settings, name "
            f"another folder with --out, or delete {file.parent} to train from the start."
        )
    return state


def trained_tensors(model: nn.Module, like: nn.Module | None = None) -> dict[str, Tensor]:
    """The tensors of `model` that are trained: those that need a gradient in `like`."""
    names = {name for name, p in (like or model).named_parameters() if p.requires_grad}
    return {name: value for name, value in model.state_dict().items() if name in names}
