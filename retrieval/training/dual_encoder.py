"""The dual encoder of `mini` as a trainable torch module: two towers, two heads.

Its parameters have the names of the packaged tensors, so that reading and writing a model folder
only rounds them. Nothing here knows of data sets or optimisers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import Tokenizer

from indexes.arrays import Array
from indexes.atomic_write import atomic_write
from indexes.lazy_imports import load_torch
from retrieval.encoders.mini.encoder import MiniEncoder
from retrieval.encoders.mini.image import ImageHead, ImageTower
from retrieval.encoders.mini.model_folder import FORMAT, read_tensors
from retrieval.encoders.mini.quantization import weight_bits
from retrieval.encoders.mini.text import EPSILON, float_tensor
from retrieval.training.pretrained_towers import imagenet_names, int8_rows
from retrieval.training.quantization import quantize

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from torch.nn import functional
else:
    torch = load_torch()
    nn = torch.nn
    functional = torch.nn.functional

Arrays = dict[str, Array]
_LAYER_MATRICES = ("qkv.weight", "out.weight", "up.weight", "down.weight")


class TextHead(nn.Module):
    """normalise(s + W2 gelu(W1 s + b1) + b2): starts close to the sentence embedding s."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)
        self.dropout = dropout
        nn.init.uniform_(self.up.weight, -4 / width**0.5, 4 / width**0.5)
        nn.init.normal_(self.down.weight, std=0.002)

    def forward(self, sentence: Tensor) -> Tensor:
        """(B, width) -> (B, width), unit rows."""
        hidden = functional.gelu(self.up(sentence))
        moved = self.down(functional.dropout(hidden, self.dropout, self.training))
        return functional.normalize(sentence + moved, dim=1)


class TextLayer(nn.Module):
    """One layer of MiniLM: attention and a perceptron, each with a residual and a layer norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        self.norm1 = nn.LayerNorm(width, EPSILON)
        self.norm2 = nn.LayerNorm(width, EPSILON)
        self.dropout = 0.0

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        """(B, T, C), and real (B, T), False for padding -> (B, T, C)."""
        b, t, c = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)  # (B, H, T, D)
        attended = functional.scaled_dot_product_attention(q, k, v, real[:, None, None, :])
        attended = self.out(attended.transpose(1, 2).reshape(b, t, c))
        x = self.norm1(x + functional.dropout(attended, self.dropout, self.training))
        wide = self.down(functional.gelu(self.up(x)))
        y: Tensor = self.norm2(x + functional.dropout(wide, self.dropout, self.training))
        return y


class TextTower(nn.Module):
    """Token numbers to sentence embeddings; the first `frozen` layers are not trained."""

    def __init__(self, words: int, places: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.words = nn.Parameter(torch.empty(words, width))
        self.places = nn.Parameter(torch.empty(places, width))
        self.norm = nn.LayerNorm(width, EPSILON)
        self.layers = nn.ModuleList(TextLayer(width, heads) for _ in range(layers))
        self.frozen = layers

    def forward(self, tokens: Sequence[Sequence[int]]) -> Tensor:
        """B lists of token numbers -> (B, C), unit rows."""
        lengths = torch.tensor([len(ids) for ids in tokens])
        ids = torch.zeros(len(tokens), int(lengths.max()), dtype=torch.long)
        for row, line in zip(ids, tokens, strict=True):
            row[: len(line)] = torch.tensor(line)
        real = (torch.arange(ids.shape[1]) < lengths[:, None]).to(self.words.device)  # (B, T)
        ids = ids.to(self.words.device)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.words.requires_grad):
            x = self.norm(self.words[ids] + self.places[: ids.shape[1]])
        for number, layer in enumerate(self.layers):
            with torch.set_grad_enabled(torch.is_grad_enabled() and number >= self.frozen):
                x = layer(x, real)
        mean = (x * real[..., None]).sum(1)  # normalising makes dividing by the length needless
        return functional.normalize(mean.float(), dim=1)


class ImageSide(nn.Module):
    """The photo tower and its head."""

    def __init__(self, tower: ImageTower, head: ImageHead) -> None:
        super().__init__()
        self.tower, self.head = tower, head


class TextSide(nn.Module):
    """The text tower and its head."""

    def __init__(self, tower: TextTower, head: TextHead) -> None:
        super().__init__()
        self.tower, self.head = tower, head


class DualEncoder(nn.Module):
    """Both towers with their heads, and the texts of the ImageNet classifier's classes."""

    def __init__(self, config: Mapping[str, Any], tensors: Arrays, tokenizer: Tokenizer) -> None:
        """The content of a model folder: config.json, the tensors as float32, the tokenizer."""
        super().__init__()
        image, text = config["image"], config["text"]
        width = tensors["text.tower.words"].shape[1]
        layers = sum(name.endswith("qkv.weight") for name in tensors)
        classes, channels = tensors["image.head.classifier.weight"].shape
        self.image = ImageSide(
            ImageTower(image["stem"], image["stages"], image["top"]),
            ImageHead(channels, image["queries"], config["dim"], classes),
        )
        words, places = (len(tensors[f"text.tower.{name}"]) for name in ("words", "places"))
        self.text = TextSide(
            TextTower(words, places, width, layers, text["heads"]),
            TextHead(width, len(tensors["text.head.up.bias"]), dropout=0.0),
        )
        self.load_state_dict({k: torch.from_numpy(v).float() for k, v in tensors.items()})
        self.config = dict(config)
        self.bits = 16
        """Bits of the photo tower's weights in the file that the model was read from."""
        self.tokenizer = tokenizer
        self.class_tokens = self.tokenize([f"a photo of a {name}" for name in imagenet_names()])
        self.image.tower.to(memory_format=torch.channels_last)

    @classmethod
    def read(cls, folder: Path) -> DualEncoder:
        """Read a folder that `write` wrote; raises ModelError if it is not a model."""
        MiniEncoder(folder)  # raises ModelError for what is missing or damaged
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.no_padding()
        tokenizer.enable_truncation(config["text"]["longest"])
        stored = read_tensors(folder / "model.safetensors", "")
        del stored["image.head.concepts"], stored["image.head.concepts.scale"]
        model = cls(config, as_floats(stored), tokenizer)
        model.bits = weight_bits(stored, "image.tower.")
        return model

    def write(
        self, folder: Path, gate: float = 1.0, photos: NDArray[np.uint8] | None = None
    ) -> None:
        """Write model.safetensors, config.json and tokenizer.json.

        Matrices of the text tower and of classes are int8 rows, other tensors of the text tower
        float32, the rest float16.

        gate: factor of the classifier's share. photos: uint8 [n, size, size, 3]; if given, the
        photo tower is quantized to 8 bits, with input ranges from these photos. Raises OSError.
        """
        with torch.inference_mode():
            classes = self.embed_classes(self.class_sentences()).float().cpu().numpy()
        tensors: Arrays = dict(int8_rows("image.head.concepts", classes))
        for name, parameter in self.state_dict().items():
            value = parameter.detach().float().cpu().numpy()
            if name == "image.head.gate":
                value = value * np.float32(gate)
            if (
                name == "text.tower.words"
                or name == "image.head.classifier.weight"
                or (name.startswith("text.tower.layers") and name.endswith(_LAYER_MATRICES))
            ):
                tensors |= int8_rows(name, value)
            elif name.startswith("text.tower.") and name != "text.tower.places":
                tensors[name] = value
            else:
                tensors[name] = value.astype(np.float16)
        if photos is not None:
            tensors |= {
                f"image.tower.{name}": value
                for name, value in quantize(self.image.tower, photos).items()
            }
        folder.mkdir(parents=True, exist_ok=True)
        arrays = {k: np.ascontiguousarray(v) for k, v in sorted(tensors.items())}
        with atomic_write(folder / "model.safetensors") as temporary:
            save_file(arrays, temporary)
            temporary.chmod(0o644)  # safetensors writes a file that only its owner can read
        config = json.dumps({**self.config, "format": FORMAT}, indent=2) + "\n"
        for name, text in (("config.json", config), ("tokenizer.json", self.tokenizer.to_str())):
            with atomic_write(folder / name) as temporary:
                temporary.write_text(text, encoding="utf-8")

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token numbers of each text, truncated to the longest length."""
        return [encoding.ids for encoding in self.tokenizer.encode_batch(list(texts))]

    def class_sentences(self, batch: int = 500) -> Tensor:
        """Sentence embeddings of the classifier's classes, (classes, C), without a gradient."""
        with torch.no_grad():
            starts = range(0, len(self.class_tokens), batch)
            tower = self.text.tower
            return torch.cat([tower(self.class_tokens[i : i + batch]) for i in starts])

    def embed_classes(self, sentences: Tensor) -> Tensor:
        """Class sentences in the shared space: (classes, C) -> (classes, dim), unit rows."""
        rows: Tensor = self.text.head(sentences)
        return rows

    def embed_texts(self, tokens: Sequence[Sequence[int]]) -> Tensor:
        """B lists of token numbers -> (B, dim), unit rows."""
        rows: Tensor = self.text.head(self.text.tower(tokens))
        return rows

    def frozen_features(self, photos: Tensor, begin: int) -> Tensor:
        """The blocks before `begin`: (B, S, S, 3) uint8 -> (B, h, w, c), the input of `begin`."""
        tower = self.image.tower
        x = photos.permute(0, 3, 1, 2).to(tower.stem.weight.dtype)
        entering: Tensor = tower.blocks[:begin](tower.stem((x - 127.0) / 128.0))
        return entering.permute(0, 2, 3, 1)

    def features(self, x: Tensor, begin: int) -> Tensor:
        """The blocks from `begin` on: its input (for 0, photos) -> features (B, cells, top)."""
        tower = self.image.tower
        if begin == 0:
            cells: Tensor = tower(x).flatten(1, 2)
            return cells
        x = x.permute(0, 3, 1, 2).to(tower.top.weight.dtype)
        y: Tensor = tower.top(tower.blocks[begin:](x))
        return y.flatten(2).transpose(1, 2)

    def embed_photos(self, x: Tensor, begin: int, classes: Tensor) -> Tensor:
        """The input of block `begin` (for 0, photos) -> (B, dim), unit rows. classes: embedded."""
        rows: Tensor = self.image.head(self.features(x, begin).float(), classes)
        return rows


def as_floats(stored: Arrays) -> Arrays:
    """Stored tensors as float32, int8 codes times their scales, without the ranges of inputs."""
    names = [name for name in stored if not name.endswith((".scale", ".input"))]
    return {name: float_tensor(stored, name) for name in names}
