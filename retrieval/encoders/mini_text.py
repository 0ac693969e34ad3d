"""The text tower of `mini`: MiniLM (6 layers, 384 wide) computed in plain numpy.

A search from the command line encodes one short query, and importing a deep-learning library
takes longer than that; numpy does it in milliseconds. For long lists of captions see `encode`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

Floats = NDArray[np.float32]

_ROWS_IN_CACHE = 64  # of the widest layer: the passes over them stay in the processor's cache
EPSILON = 1e-12  # of the layer normalisations, as BERT was trained


class Int8Matrix:
    """A matrix kept as int8 rows with one scale each: row i is codes[i] * scales[i]."""

    def __init__(self, codes: NDArray[np.int8], scales: NDArray[np.floating[Any]]) -> None:
        """`codes` is int8 [rows, columns], `scales` is [rows]; raises ValueError otherwise."""
        if codes.dtype != np.int8 or codes.ndim != 2 or scales.shape != codes.shape[:1]:
            raise ValueError("int8 codes need two dimensions and one scale a row")
        self.codes, self.scales = codes, scales.astype(np.float32)

    def rows(self, which: NDArray[np.integer[Any]]) -> Floats:
        """Rows by number, any shape of numbers: float32 [*which.shape, columns]."""
        codes: Floats = self.codes[which].astype(np.float32)
        codes *= self.scales[which][..., None]
        return codes

    def whole(self) -> Floats:
        """The whole matrix, float32 [rows, columns]."""
        return self.rows(np.arange(len(self.codes)))


class TextEncoder:
    """Texts to unit rows of the shared space: the tower, then the head learned with photos."""

    def __init__(
        self, weights: Mapping[str, NDArray[Any]], tokenizer: Tokenizer, heads: int, longest: int
    ) -> None:
        """Weights named `tower.*` and `head.*`; raises as `TextTower` does."""
        self._tower = TextTower(below(weights, "tower."), tokenizer, heads, longest)
        self._head = {k: v.astype(np.float32) for k, v in below(weights, "head.").items()}
        self.dim = len(self._head["down.bias"])

    def encode(self, texts: Sequence[str]) -> Floats:
        """float32 [n, dim], unit rows: normalise(s + W2 gelu(W1 s + b1) + b2) of sentence s."""
        if len(texts) == 0:
            return np.empty((0, self.dim), np.float32)
        sentence = self.sentences(texts)
        hidden = gelu(sentence @ self._head["up.weight"].T + self._head["up.bias"])
        moved = sentence + hidden @ self._head["down.weight"].T + self._head["down.bias"]
        moved /= np.linalg.norm(moved, axis=1, keepdims=True)
        return np.asarray(moved, np.float32)

    def sentences(self, texts: Sequence[str]) -> Floats:
        """The tower alone: unit sentence vectors, float32 [n, width], to compare texts by."""
        return self._tower.encode(texts)


class TextTower:
    """Texts to sentence vectors.

    Wang et al., MiniLM, 2020, in the weights of sentence-transformers/all-MiniLM-L6-v2.
    """

    def __init__(
        self, weights: Mapping[str, NDArray[Any]], tokenizer: Tokenizer, heads: int, longest: int
    ) -> None:
        """Weights by name: float arrays, or int8 `NAME` with `NAME.scale`.

        Raises KeyError or ValueError where `weights` are not those of such a tower.
        """
        self._tokenizer = tokenizer
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(longest)
        self._heads = heads
        self._words = Int8Matrix(weights["words"], weights["words.scale"])
        self._places = weights["places"].astype(np.float32)
        self._norm = _pair(weights, "norm")
        self._layers: list[dict[str, Floats]] = []
        while f"layers.{len(self._layers)}.qkv.weight" in weights:
            self._layers.append(_layer(weights, f"layers.{len(self._layers)}."))

    def encode(self, texts: Sequence[str], batch: int = 64) -> Floats:
        """Unit sentence vectors, float32 [n, 384]; texts past the longest length are cut.

        Texts are sorted by length first, so that a batch carries little padding. Batches go side by
        side, a core each: half of the work is in passes that one matrix product cannot share out.
        """
        width = self._places.shape[1]
        result = np.empty((len(texts), width), np.float32)
        tokens = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        order = sorted(range(len(tokens)), key=lambda i: len(tokens[i]))

        def work(chosen: Sequence[int]) -> None:
            result[chosen] = self._forward([tokens[i] for i in chosen])

        if len(order) <= batch:
            if order:
                work(order)
            return result
        from threadpoolctl import threadpool_limits

        parts = [order[start : start + batch] for start in range(0, len(order), batch)]
        with threadpool_limits(1, "blas"), ThreadPoolExecutor(os.cpu_count()) as pool:
            for _ in pool.map(work, reversed(parts)):  # the longest first, to end together
                pass
        return result

    def _forward(self, tokens: Sequence[Sequence[int]]) -> Floats:
        """One padded batch: B lists of at most T token numbers -> (B, 384)."""
        lengths = np.array([len(ids) for ids in tokens])
        length = int(lengths.max())
        ids = np.zeros((len(tokens), length), np.int64)
        for row, line in zip(ids, tokens, strict=True):
            row[: len(line)] = line
        real = np.arange(length) < lengths[:, None]  # (B, T)
        x = _normalised(self._words.rows(ids) + self._places[:length], *self._norm)
        unseen = np.where(real, 0.0, -1e9).astype(np.float32)[:, None, None, :]  # (B, 1, 1, T)
        for layer in self._layers:
            x = self._block(x, layer, unseen)
        mean: Floats = np.einsum("btc,bt->bc", x, real.astype(np.float32))
        mean /= np.linalg.norm(mean, axis=1, keepdims=True)
        return mean

    def _block(self, x: Floats, layer: Mapping[str, Floats], unseen: Floats) -> Floats:
        """Attention, then the perceptron, each added to its input and normalised: (B, T, C)."""
        b, t, c = x.shape
        flat = x.reshape(b * t, c)
        qkv = flat @ layer["qkv.weight"] + layer["qkv.bias"]
        q, k, v = qkv.reshape(b, t, 3, self._heads, -1).transpose(2, 0, 3, 1, 4)  # (B, H, T, D)
        logits = q @ k.transpose(0, 1, 3, 2) / np.float32(np.sqrt(q.shape[-1])) + unseen
        attention = np.exp(logits - logits.max(-1, keepdims=True))
        attention /= attention.sum(-1, keepdims=True)
        seen = (attention @ v).transpose(0, 2, 1, 3).reshape(b * t, c)
        flat = flat + (seen @ layer["out.weight"] + layer["out.bias"])
        flat = _normalised(flat, layer["norm1.weight"], layer["norm1.bias"])
        wide: Floats = flat @ layer["up.weight"] + layer["up.bias"]
        for start in range(0, len(wide), _ROWS_IN_CACHE):
            wide[start : start + _ROWS_IN_CACHE] = gelu(wide[start : start + _ROWS_IN_CACHE])
        flat = flat + (wide @ layer["down.weight"] + layer["down.bias"])
        return _normalised(flat, layer["norm2.weight"], layer["norm2.bias"]).reshape(b, t, c)


def below(arrays: Mapping[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    """The arrays whose names start with `prefix`, by the rest of their names."""
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def gelu(x: Floats) -> Floats:
    """x * Phi(x), elementwise, in x's shape.

    The error function is Abramowitz and Stegun's 7.1.26, off by at most 1.5e-7.
    """
    z = np.abs(x) * np.float32(np.sqrt(0.5))
    t = 1.0 / (1.0 + np.float32(0.3275911) * z)
    poly = np.full_like(t, 1.061405429)
    for factor in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        poly *= t
        poly += np.float32(factor)
    poly *= t
    np.multiply(z, -z, out=z)
    poly *= np.exp(z, out=z)  # 1 - erf(|x| / sqrt 2), twice the tail beyond |x|
    poly *= np.float32(0.5)
    return np.asarray(np.where(x >= 0, x - x * poly, x * poly), np.float32)


def _layer(weights: Mapping[str, NDArray[Any]], prefix: str) -> dict[str, Floats]:
    """One layer's arrays, matrices as (in, out) so that rows of x multiply them from the left."""
    layer: dict[str, Floats] = {}
    for name in ("qkv", "out", "up", "down"):
        key = f"{prefix}{name}.weight"
        layer[f"{name}.weight"] = Int8Matrix(weights[key], weights[f"{key}.scale"]).whole().T
        layer[f"{name}.bias"] = weights[f"{prefix}{name}.bias"].astype(np.float32)
    for name in ("norm1", "norm2"):
        layer[f"{name}.weight"], layer[f"{name}.bias"] = _pair(weights, f"{prefix}{name}")
    return layer


def _pair(weights: Mapping[str, NDArray[Any]], name: str) -> tuple[Floats, Floats]:
    return weights[f"{name}.weight"].astype(np.float32), weights[f"{name}.bias"].astype(np.float32)


def _normalised(x: Floats, weight: Floats, bias: Floats) -> Floats:
    """Layer normalisation over the last axis."""
    x = x - x.mean(-1, keepdims=True)
    variance = np.einsum("...c,...c->...", x, x) / np.float32(x.shape[-1])
    x /= np.sqrt(variance + np.float32(EPSILON))[..., None]
    x *= weight
    x += bias
    return x
