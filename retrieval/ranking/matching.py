"""Matching: the probability that a photo and a text belong together.

Y = σ(scale · (s + g(F, I, T)) + offset), where s is what a ranking orders by, the cosine less the
photo's bias (`retrieval.ranking.nnn_bias`), and g what a small network adds to it: a perceptron of
the fused features F of the pair, and a low-rank product of the two. Untrained g is 0, so that Y is
the calibrated score and re-ranking by it changes nothing.

I is the embedding that is searched: of a captioned photo, that of both. `beside` is written once
for numpy and torch arrays, so that a search needs no torch.
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
from retrieval.fusion.weights_file import length, read_arrays, shaped, write_arrays

_AT_ONCE = 4096  # pairs


@dataclass(frozen=True)
class Network:
    """Float32 arrays of numpy or torch; h and r are free.

    scale, offset: []; the perceptron of the fused features look: [dim, h], bias, out: [h]; the
    product of photo and text left, right: [dim, r]. With `out` and `right` zero nothing is added.
    """

    scale: Any
    offset: Any
    look: Any
    bias: Any
    out: Any
    left: Any
    right: Any


def beside(network: Network, fused: Any, photos: Any, texts: Any, drop: Any = lambda x: x) -> Any:
    """g: what is added to the score of each pair, [...], from unit rows [..., dim].

    numpy or torch, differentiable in the latter. drop: what training does to hidden units.
    """
    # Unit rows have elements of about 1 / √dim: the root brings them to the scale of tanh.
    root = float(photos.shape[-1]) ** 0.5
    hidden = drop(tanh(root * fused @ network.look + network.bias))
    product = drop(root * photos @ network.left) * (root * texts @ network.right)
    return hidden @ network.out + product.sum(-1) / float(network.left.shape[1]) ** 0.5


@dataclass(frozen=True)
class Matching:
    """A network, the fusion whose features it knows, and what it was trained on and gave."""

    network: Network
    fusion: Fusion
    about: Mapping[str, Any] = field(default_factory=dict)

    def added(self, photos: Floats, texts: Floats) -> Floats:
        """What is added to the score of each pair, float32 [n], in the units of a cosine.

        photos: float32 [n, dim] unit rows, as they are searched; texts: the same, or one row
        [dim] for all.
        """
        texts = np.broadcast_to(texts, photos.shape)
        found = np.empty(len(photos), np.float32)
        for start in range(0, len(photos), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            fused, _ = self.fusion.photos(photos[part], texts[part])
            found[part] = beside(self.network, fused, photos[part], texts[part])
        return found

    def probability(self, scores: Floats) -> Floats:
        """Y of pairs, float32 [n]: scores: the cosine less the photo's bias, and what was added.

        It is that of a pair of which it is as likely that it is a true one as that it is one of
        the ten photos nearest to a text that it does not belong to.
        """
        t = self.network.scale * scores + self.network.offset
        p: Floats = (0.5 * (1 + np.tanh(0.5 * t))).astype(np.float32)  # without overflow
        return p


# On disk ---------------------------------------------------------------------------------------


def load_matching(fingerprint: str, dim: int) -> Matching | None:
    """What was trained for a model's weights together with the fusion that they have now, by the
    user or shipped; None where that is not there or cannot be read."""
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
    """Where the matching lies that was trained together with the fusion in this file."""
    return fusion.with_suffix(".matching.safetensors")


def read_matching(file: Path, fusion: Fusion) -> Matching:
    """The matching in a file; raises ModelError where it holds none."""
    try:
        arrays, about = read_arrays(file)
        h, r = length(arrays, "out"), length(arrays, "right")
        dim = len(arrays["look"]) if length(arrays, "look") else 0
        shapes: dict[str, tuple[int, ...]] = {"scale": (), "offset": (), "look": (dim, h)}
        shapes |= {"bias": (h,), "out": (h,), "left": (dim, r), "right": (dim, r)}
        network = Network(**shaped(arrays, shapes))
        if not network.scale > 0 or not r:
            raise ValueError("an array has the wrong shape")
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{file} holds no matching ({error}). Make one with `retrieval train-fusion`."
        ) from error
    return Matching(network, fusion, about)


def save_matching(matching: Matching, file: Path) -> Matching:
    """Write it as safetensors, in half precision; returns it as it is read back.

    Written to a temporary name and renamed. Raises OSError.
    """
    network = matching.network
    write_arrays(file, {f.name: getattr(network, f.name) for f in fields(Network)}, matching.about)
    return read_matching(file, matching.fusion)
