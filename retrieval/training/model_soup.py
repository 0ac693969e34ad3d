"""The mean of the weights of several runs that began alike: better than any of them, at no cost.

Wortsman et al., Model Soups, 2022. Train the runs with other seeds and `--set bits=16`, so that no
rounding is averaged; the mean is then written in 8 bits, by photos of the data set.

    python -m retrieval.training.model_soup FLICKR8K RUN RUN ... --out FOLDER
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from indexes.errors import RetrievalError
from indexes.lazy_imports import load_torch
from retrieval.errors import ModelError
from retrieval.training.dual_encoder import DualEncoder
from retrieval.training.mini import to_8_bits, train_and_held_out


def mean(folders: Sequence[Path]) -> DualEncoder:
    """A model of the mean weights. Raises ModelError where a folder is no model, or another one."""
    torch = load_torch()
    models = [DualEncoder.read(folder) for folder in folders]
    first = models[0]
    total = first.state_dict()
    for folder, model in zip(folders[1:], models[1:], strict=True):
        state = model.state_dict()
        if {k: v.shape for k, v in state.items()} != {k: v.shape for k, v in total.items()}:
            raise ModelError(f"{folder} is of another shape than {folders[0]}: no mean can be had.")
        total = {name: total[name] + value for name, value in state.items()}
    with torch.no_grad():
        first.load_state_dict({name: value / len(models) for name, value in total.items()})
    return first


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Average the weights of trained models.")
    parser.add_argument("dataset", type=Path, help="what they were trained on")
    parser.add_argument("runs", type=Path, nargs="+", help="folders that `retrieval train` made")
    parser.add_argument("--out", type=Path, required=True, help="folder for the model")
    chosen = parser.parse_args(arguments)
    if (chosen.out / "model.safetensors").exists():
        parser.error(f"{chosen.out} holds a model already; name another folder with --out")
    try:
        learn, _ = train_and_held_out(chosen.dataset, None, None, None, False, 0, print)
        mean(chosen.runs).write(chosen.out)
        to_8_bits(chosen.out, learn)
    except RetrievalError as error:
        sys.exit(str(error))
    print(f"{chosen.out} is the mean of {len(chosen.runs)} models. Use it with --model.")


if __name__ == "__main__":
    main()
