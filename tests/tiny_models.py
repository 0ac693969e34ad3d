"""Models of the real kinds with tiny towers and random weights, for tests that need any model.

They take milliseconds where the real ones take seconds. What they embed means nothing: a test of
recall or of ranking quality needs the real weights of `mini`.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

CONFIG = {
    "name": "mini",
    "dim": 32,
    "image": {
        "size": 64,
        "stem": 8,
        # Repeats, kernel, stride, widening and channels of each stage.
        "stages": [[1, 3, 1, 1, 8], [2, 5, 2, 6, 16], [2, 3, 2, 6, 24]],
        "top": 64,
        "queries": 2,
    },
    "text": {"heads": 2, "longest": 32},
}
CLASSES = 1000  # as many as the classifier's list of names has
OPEN_CLIP = "tiny-ViT"
OPEN_CLIP_CONFIG = {
    "embed_dim": 32,
    "vision_cfg": {
        "image_size": 224, "patch_size": 32, "layers": 2, "width": 64, "head_width": 32
    },
    "text_cfg": {
        "context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2
    },
}  # fmt: skip


def write_mini(folder: Path, seed: int = 0) -> Path:
    """Write a model folder as `retrieval train` writes it, in 16 bits; the same seed, the same."""
    from retrieval.encoders.mini.image import ImageHead, ImageTower
    from retrieval.encoders.mini.model_folder import WEIGHTS
    from retrieval.training.dual_encoder import DualEncoder, TextHead, TextTower

    tokenizer = Tokenizer.from_file(str(WEIGHTS / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(CONFIG["text"]["longest"])
    dim, image, text = CONFIG["dim"], CONFIG["image"], CONFIG["text"]
    modules = {
        "image.tower": ImageTower(image["stem"], image["stages"], image["top"]),
        "image.head": ImageHead(image["top"], image["queries"], dim, CLASSES),
        "text.tower": TextTower(
            tokenizer.get_vocab_size(), text["longest"], dim, layers=2, heads=text["heads"]
        ),
        "text.head": TextHead(dim, 2 * dim, dropout=0.0),
    }
    random = np.random.default_rng(seed)
    tensors = {}
    for prefix, module in modules.items():
        for name, value in module.state_dict().items():
            shape = tuple(value.shape)
            if name == "gate":
                drawn = np.array(2.0)  # photos differ by what the classifier sees in them
            elif name == "log_sharpness" or name.endswith("bias"):
                drawn = np.zeros(shape)
            elif "norm" in name:
                drawn = np.ones(shape)
            else:  # the scale that keeps activations as large as they are
                drawn = random.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape)
            if name == "classifier.weight":
                drawn = 10 * drawn
            tensors[f"{prefix}.{name}"] = drawn.astype(np.float32)
    DualEncoder(CONFIG, tensors, tokenizer).write(folder)
    return folder


def write_open_clip(file: Path, architecture: str = OPEN_CLIP, seed: int = 0) -> str:
    """Write a checkpoint of an open_clip model with random weights; returns its name, `ARCH:FILE`.

    The tiny architecture is known to open_clip in this process only.
    """
    import open_clip
    import torch
    from safetensors.torch import save_file

    if architecture == OPEN_CLIP:
        config = file.with_name(f"{OPEN_CLIP}.json")
        config.write_text(json.dumps(OPEN_CLIP_CONFIG))
        open_clip.add_model_config(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        weights = open_clip.create_model(architecture).state_dict()
    # At their first size, weights let different photos through as nearly the same.
    weights = {k: 4 * v if "visual.conv1" in k else v for k, v in weights.items()}
    save_file({key: value.contiguous() for key, value in weights.items()}, file)
    return f"{architecture}:{file}"
