"""Matching: the probability that a photo and a text belong together.

Y = σ(scale · (s + g(F, I, T)) + offset). s is the score that a ranking orders by: the cosine less
the photo's bias (`retrieval.ranking.hubness.nnn_bias`). g is what a small network adds to it: a
perceptron of the fused features F of the pair, and a low-rank product of both embeddings.
Untrained, g is 0: Y is then the calibrated score, and re-ranking by it changes nothing.

I is the embedding that is searched; for a captioned photo it is that of photo and captions.
`score_residual` is written once for numpy and torch arrays, so a search needs no torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from indexes.arrays import Floats
from retrieval.errors import ModelError
from retrieval.fusion.attention import Fusion, tanh
from retrieval.fusion.store import fusion_files, load_fusion
from retrieval.fusion.weights_file import (
    check_shapes,
    last_dimension,
    read_arrays,
    write_arrays,
)

_PAIRS_AT_ONCE = 4096


@dataclass(frozen=True)
class MatchingNetwork:
    """Float32 arrays of numpy or torch; h and r are free. The names are those of the file.

    scale, offset: []. The perceptron of the fused features has look: [dim, h], bias, out: [h]. The
    product of photo and text has left, right: [dim, r]. With `out` and `right` zero, g is 0.
    """

    scale: Any
    offset: Any
    look: Any
    bias: Any
    out: Any
    left: Any
    right: Any


def score_residual(
    network: MatchingNetwork, fused: Any, photos: Any, texts: Any, drop: Any = lambda x: x
) -> Any:
    """g: what is added to the score of each pair, [...], from unit rows [..., dim].

    numpy or torch, differentiable in torch. drop: dropout of hidden units, in training.
    """
    # Unit rows have elements of about 1 / √dim: the root brings them to the scale of tanh.
    root = float(photos.shape[-1]) ** 0.5
    hidden = drop(tanh(root * fused @ network.look + network.bias))
    product = drop(root * photos @ network.left) * (root * texts @ network.right)
    return hidden @ network.out + product.sum(-1) / float(network.left.shape[1]) ** 0.5


@dataclass(frozen=True)
class Matching:
    """A trained network, the fusion that computes its features, and a record of the training."""

    network: MatchingNetwork
    fusion: Fusion
    about: Mapping[str, Any] = field(default_factory=dict)

    def residual(self, photos: Floats, texts: Floats) -> Floats:
        """What is added to the score of each pair, float32 [n], in the units of a cosine.

        photos: float32 [n, dim] unit rows, as they are searched; texts: the same, or one row [dim]
        for all photos.
        """
        texts = np.broadcast_to(texts, photos.shape)
        found = np.empty(len(photos), np.float32)
        for start in range(0, len(photos), _PAIRS_AT_ONCE):
            part = slice(start, start + _PAIRS_AT_ONCE)
            fused, _ = self.fusion.photos(photos[part], texts[part])
            found[part] = score_residual(self.network, fused, photos[part], texts[part])
        return found

    def probability(self, scores: Floats) -> Floats:
        """Y of pairs, float32 [n], from the cosine less the photo's bias plus the residual.

        The prior is even: a pair is as likely a true one as it is a text with one of the ten
        nearest photos that it does not belong to.
        """
        t = self.network.scale * scores + self.network.offset
        p: Floats = (0.5 * (1 + np.tanh(0.5 * t))).astype(np.float32)  # without overflow
        return p


# On disk ---------------------------------------------------------------------------------------


def load_matching(fingerprint: str, dim: int) -> Matching | None:
    """The matching of a model's weights: the user's own, else the one in the package.

    None if there is none that was trained together with the fusion that the model has now. A file
    that cannot be read counts as none.
    """
    fusion = load_fusion(fingerprint, dim)
    for file in fusion_files(fingerprint):
        try:
            matching = read_matching(matching_file(file), fusion)
        except ModelError:
            continue
        about = matching.about
        same = (about.get("fingerprint"), about.get("fusion")) == (fingerprint, fusion.name)
        if same and matching.network.look.shape[0] == dim:
            return matching
    return None


def matching_file(fusion: Path) -> Path:
    """The file of the matching that was trained together with the fusion in this file."""
    return fusion.with_suffix(".matching.safetensors")


def read_matching(file: Path, fusion: Fusion) -> Matching:
    """The matching in a file; raises ModelError if it has none."""
    try:
        arrays, about = read_arrays(file)
        h, r = last_dimension(arrays, "out"), last_dimension(arrays, "right")
        dim = len(arrays["look"]) if last_dimension(arrays, "look") else 0
        shapes: dict[str, tuple[int, ...]] = {"scale": (), "offset": (), "look": (dim, h)}
        shapes |= {"bias": (h,), "out": (h,), "left": (dim, r), "right": (dim, r)}
        network = MatchingNetwork(**check_shapes(arrays, shapes))
        if not network.scale > 0 or not r:
            raise ValueError("an array has the wrong shape")
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{file} holds no matching ({error}). Train one with `retrieval train-fusion`."
        ) from error
    return Matching(network, fusion, about)


def save_matching(matching: Matching, file: Path) -> Matching:
    """Write a matching as safetensors, in half precision; returns it as it is read back.

    Raises OSError.
    """
    network = matching.network
    arrays = {part.name: getattr(network, part.name) for part in fields(MatchingNetwork)}
    write_arrays(file, arrays, matching.about)
    return read_matching(file, matching.fusion)
