"""A model soup: the mean of the weights of several runs that started from the same model.

It is better than each of them at no cost (Wortsman et al., Model Soups, 2022). Train the runs with
different seeds and `--set bits=16`, so that no rounded weights are averaged; the mean is then
written in 8 bits, with input ranges from photos of the data set.

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
from retrieval.output.terminal import hide_library_warnings
from retrieval.training.dual_encoder import DualEncoder
from retrieval.training.held_out import training_and_held_out
from retrieval.training.mini import quantize_model
from retrieval.training.options import DataOptions


def average_models(folders: Sequence[Path]) -> DualEncoder:
    """The model with the mean weights. Raises ModelError if a folder is no model, or if the
    models differ in shape."""
    torch = load_torch()
    models = [DualEncoder.read(folder) for folder in folders]
    first = models[0]
    total = first.state_dict()
    for folder, model in zip(folders[1:], models[1:], strict=True):
        state = model.state_dict()
        if {k: v.shape for k, v in state.items()} != {k: v.shape for k, v in total.items()}:
            raise ModelError(
                f"{folder} and {folders[0]} have weights of different shapes. Average only models "
                "that were trained from the same model."
            )
        total = {name: total[name] + value for name, value in state.items()}
    with torch.no_grad():
        first.load_state_dict({name: value / len(models) for name, value in total.items()})
    return first


def main(arguments: Sequence[str] | None = None) -> None:
    """Average the models and quantize the result, by the command line's arguments."""
    parser = argparse.ArgumentParser(description="Average the weights of trained models.")
    parser.add_argument("dataset", type=Path, help="the data set of the training runs")
    parser.add_argument("runs", type=Path, nargs="+", help="folders that `retrieval train` wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder of the averaged model")
    chosen = parser.parse_args(arguments)
    hide_library_warnings()
    if (chosen.out / "model.safetensors").exists():
        parser.error(f"{chosen.out} already holds a model; name another folder with --out")
    try:
        training, _ = training_and_held_out(DataOptions(dataset=chosen.dataset), print)
        average_models(chosen.runs).write(chosen.out)
        quantize_model(chosen.out, training)
    except RetrievalError as error:
        sys.exit(str(error))
    print(
        f"{chosen.out} is the average of {len(chosen.runs)} models. "
        f"Use it with --model {chosen.out}."
    )


if __name__ == "__main__":
    main()
