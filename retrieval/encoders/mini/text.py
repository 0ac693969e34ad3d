"""The text tower of `mini`: MiniLM (6 layers, 384 wide) computed in plain numpy.

A search from the command line encodes one short query. Importing a deep-learning library takes
longer than that; numpy needs milliseconds. Lists of texts are split into batches, one per core,
because threads inside a product of such small matrices mostly wait for one another.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController
from tokenizers import Encoding, Tokenizer

from indexes.arrays import Array, Floats
from retrieval.errors import ModelError

EPSILON = 1e-12  # of the layer normalisations, as BERT was trained
_CHUNK = 1 << 15  # numbers whose intermediate results fit into a core's cache
_WIDTH = 128  # columns of a block; multiplying one text takes a third less time, 32 as long


class Int8Matrix:
    """A matrix stored as int8 rows with one scale each: row i is codes[i] * scales[i]."""

    def __init__(self, codes: NDArray[np.int8], scales: NDArray[np.floating[Any]]) -> None:
        """codes: int8 [rows, columns]; scales: [rows]. Raises ValueError for other shapes."""
        if codes.dtype != np.int8 or codes.ndim != 2 or scales.shape != codes.shape[:1]:
            raise ValueError("int8 codes need two dimensions and one scale per row")
        self.codes, self.scales = codes, scales.astype(np.float32)

    def rows(self, indices: NDArray[np.integer[Any]]) -> Floats:
        """Rows by index, for indices of any shape: float32 [*indices.shape, columns]."""
        values: Floats = self.codes[indices].astype(np.float32)
        values *= self.scales[indices][..., None]
        return values

    def dequantize(self) -> Floats:
        """The whole matrix, float32 [rows, columns]."""
        return self.rows(np.arange(len(self.codes)))

    def transposed_blocks(self) -> Floats:
        """The whole matrix transposed, in blocks of columns: float32 [blocks, columns, width].

        BLAS libraries pack a matrix before they multiply a few rows by it, which takes longer than
        the product; OpenBLAS leaves that out for products as small as those by one block.
        """
        rows, columns = self.codes.shape
        width = _WIDTH if rows % _WIDTH == 0 else rows
        blocks = np.ascontiguousarray(self.codes.reshape(-1, width, columns).transpose(0, 2, 1))
        scales = self.scales.reshape(-1, 1, width)
        return np.multiply(blocks, scales, dtype=np.float32)


def float_tensor(weights: Mapping[str, Array], name: str) -> Floats:
    """The tensor `name` of a model file as float32, in its own shape.

    If the file has `NAME.scale`, the tensor holds int8 codes, to be multiplied by the scale of
    their row (of their output channel in a convolution). Raises KeyError if the tensor is missing,
    ValueError if codes and scales do not match.
    """
    value = weights[name]
    if f"{name}.scale" not in weights:
        return np.asarray(value, np.float32)
    codes = value.reshape(len(value), -1)
    return Int8Matrix(codes, weights[f"{name}.scale"]).dequantize().reshape(value.shape)


class TextEncoder:
    """Texts to unit rows of the shared space: the tower, then the head trained with photos."""

    def __init__(self, weights: Mapping[str, Array], tokenizer: Tokenizer, heads: int) -> None:
        """weights: named `tower.*` and `head.*`; the rest as for `TextTower`."""
        self._tower = TextTower(strip_prefix(weights, "tower."), tokenizer, heads)
        self._head = {k: v.astype(np.float32) for k, v in strip_prefix(weights, "head.").items()}
        self.dim = len(self._head["down.bias"])

    def encode(self, texts: Sequence[str]) -> Floats:
        """normalise(s + W2 gelu(W1 s + b1) + b2) for sentence vectors s: float32 [n, dim].

        Rows are not finite if the weights are so large that float32 overflows.
        """
        if len(texts) == 0:
            return np.empty((0, self.dim), np.float32)
        sentences = self.sentences(texts)
        with np.errstate(all="ignore"):
            hidden = gelu(sentences @ self._head["up.weight"].T + self._head["up.bias"])
            rows = sentences + hidden @ self._head["down.weight"].T + self._head["down.bias"]
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        return np.asarray(rows, np.float32)

    def reads_all(self, text: str) -> bool:
        """Whether a text has no more tokens than there are positions."""
        return self._tower.reads_all(text)

    def sentences(self, texts: Sequence[str]) -> Floats:
        """Unit sentence vectors of the tower alone, to compare texts: float32 [n, width]."""
        return self._tower.encode(texts)


class TextTower:
    """Texts to sentence vectors.

    Wang et al., MiniLM, 2020, in the weights of sentence-transformers/all-MiniLM-L6-v2.
    """

    def __init__(self, weights: Mapping[str, Array], tokenizer: Tokenizer, heads: int) -> None:
        """weights: float arrays, or int8 `NAME` with `NAME.scale`, as `check_layout` has found
        them; tokenizer: truncates texts to the number of positions.
        """
        self._tokenizer = tokenizer
        self._heads = heads
        self._token_embeddings = Int8Matrix(weights["words"], weights["words.scale"])
        self._position_embeddings = weights["places"].astype(np.float32)
        self._norm = _norm_weights(weights, "norm")
        self._layers: list[_Layer] = []
        while f"layers.{len(self._layers)}.qkv.weight" in weights:
            self._layers.append(_Layer(weights, f"layers.{len(self._layers)}."))
        self._is_first = True

    def encode(self, texts: Sequence[str], batch: int = 32) -> Floats:
        """Unit sentence vectors, float32 [n, 384]; longer texts are truncated.

        Texts are sorted by length first, to keep the padding of a batch small. Raises ModelError
        if the tokenizer fails, or gives a token that has no embedding.
        """
        result = np.empty((len(texts), self._position_embeddings.shape[1]), np.float32)
        tokens = [encoding.ids for encoding in self._tokenize(texts)]
        order = sorted(range(len(tokens)), key=lambda i: len(tokens[i]))
        batches = [order[start : start + batch] for start in range(0, len(order), batch)]
        if len(batches) > 1 or not self._is_first:
            for layer in self._layers:
                layer.keep_floats()
        self._is_first = False

        def forward(indices: Sequence[int]) -> None:
            with np.errstate(all="ignore"):
                result[indices] = self._forward([tokens[i] for i in indices])

        with _blas().limit(limits=1, user_api="blas"):
            if len(batches) == 1:
                forward(batches[0])
            else:
                with ThreadPoolExecutor(os.cpu_count()) as pool:
                    list(pool.map(forward, reversed(batches)))  # the longest first
        return result

    def reads_all(self, text: str) -> bool:
        """Whether a text has no more tokens than there are positions."""
        return not self._tokenize([text])[0].overflowing

    def _tokenize(self, texts: Sequence[str]) -> list[Encoding]:
        try:
            with tokenizer_errors():
                return self._tokenizer.encode_batch(list(texts))
        except ValueError as error:
            raise ModelError(
                f"The model's tokenizer fails ({error}). Train the model again with `retrieval "
                "train`, or choose another."
            ) from error

    def _forward(self, tokens: Sequence[Sequence[int]]) -> Floats:
        """One padded batch: B lists of at most T token ids -> (B, 384)."""
        lengths = np.array([len(ids) for ids in tokens])
        length = max(int(lengths.max()), 1)
        ids = np.zeros((len(tokens), length), np.int64)
        for row, line in zip(ids, tokens, strict=True):
            row[: len(line)] = line
        if ids.max() >= len(self._token_embeddings.codes):
            raise ModelError(
                f"The model's tokenizer gives token {ids.max()}, which has no embedding. Train the "
                "model again with `retrieval train`, or choose another."
            )
        is_token = np.arange(length) < lengths[:, None]  # (B, T)
        x = _layer_norm(
            self._token_embeddings.rows(ids) + self._position_embeddings[:length], *self._norm
        )
        mask = np.where(is_token, 0.0, -1e9).astype(np.float32)[:, None, None, :]  # (B, 1, 1, T)
        for layer in self._layers:
            x = self._block(x, layer, mask)
        mean: Floats = np.einsum("btc,bt->bc", x, is_token.astype(np.float32))
        mean /= np.linalg.norm(mean, axis=1, keepdims=True)
        return mean

    def _block(self, x: Floats, layer: _Layer, mask: Floats) -> Floats:
        """Attention, then an MLP, each added to its input and normalised: (B, T, C)."""
        b, t, c = x.shape
        flat = x.reshape(b * t, c)
        qkv = layer.multiply(flat, "qkv")
        q, k, v = qkv.reshape(b, t, 3, self._heads, -1).transpose(2, 0, 3, 1, 4)  # (B, H, T, D)
        logits = q @ k.transpose(0, 1, 3, 2) / np.float32(np.sqrt(q.shape[-1])) + mask
        attention = np.exp(logits - logits.max(-1, keepdims=True))
        attention /= attention.sum(-1, keepdims=True)
        attended = (attention @ v).transpose(0, 2, 1, 3).reshape(b * t, c)
        flat = flat + layer.multiply(attended, "out")
        flat = _layer_norm(flat, *layer.norm1)
        hidden = gelu(layer.multiply(flat, "up"))
        flat = flat + layer.multiply(hidden, "down")
        return _layer_norm(flat, *layer.norm2).reshape(b, t, c)


class _Layer:
    """The weights of one layer; matrices are blocks of columns, to multiply rows from the left.

    A command that encodes one text leaves the matrices as they are stored, in 8 bits, and computes
    the floats of each when it is multiplied: a quarter of the memory. Whoever encodes more keeps
    the floats.
    """

    def __init__(self, weights: Mapping[str, Array], prefix: str) -> None:
        names = [(name, f"{prefix}{name}") for name in ("qkv", "out", "up", "down")]
        self._stored = {
            name: Int8Matrix(weights[f"{key}.weight"], weights[f"{key}.weight.scale"])
            for name, key in names
        }
        self._biases = {name: weights[f"{key}.bias"].astype(np.float32) for name, key in names}
        self._floats: dict[str, Floats] = {}
        self.norm1 = _norm_weights(weights, f"{prefix}norm1")
        self.norm2 = _norm_weights(weights, f"{prefix}norm2")

    def keep_floats(self) -> None:
        """From now on, keep the matrices in floats."""
        if not self._floats:
            self._floats = {
                name: matrix.transposed_blocks() for name, matrix in self._stored.items()
            }

    def multiply(self, rows: Floats, name: str) -> Floats:
        """rows, float32 [n, in], by a matrix, and its bias added: float32 [n, out]."""
        blocks = self._floats.get(name)
        if blocks is None:
            blocks = self._stored[name].transposed_blocks()
        count, _, width = blocks.shape
        product = np.empty((len(rows), count * width), np.float32)
        np.matmul(rows, blocks, out=product.reshape(len(rows), count, width).transpose(1, 0, 2))
        product += self._biases[name]
        return product


@contextmanager
def tokenizer_errors() -> Iterator[None]:
    """The errors of the tokenizers package as ValueError: it raises bare Exception, and a panic of
    its Rust code is a BaseException."""
    try:
        yield
    except Exception as error:
        raise ValueError(str(error)) from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise ValueError(f"the tokenizer fails: {error}") from error


def strip_prefix(arrays: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    """The arrays whose names start with `prefix`, named without it."""
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def gelu(x: Floats) -> Floats:
    """x * Phi(x), elementwise, in x's shape.

    The error function is Abramowitz and Stegun's 7.1.26, with an error of at most 1.5e-7.
    """
    result = np.empty(x.shape, np.float32)
    flat, out = np.ascontiguousarray(x).reshape(-1), result.reshape(-1)
    for start in range(0, flat.size, _CHUNK):
        _gelu(flat[start : start + _CHUNK], out[start : start + _CHUNK])
    return result


def _gelu(x: Floats, out: Floats) -> None:
    z = np.abs(x)
    z *= np.float32(np.sqrt(0.5))
    t = np.float32(0.3275911) * z
    t += np.float32(1.0)
    np.reciprocal(t, out=t)
    poly = np.float32(1.061405429) * t
    for factor in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        poly += np.float32(factor)
        poly *= t
    np.multiply(z, -z, out=z)
    poly *= np.exp(z, out=z)  # 1 - erf(|x| / sqrt 2), twice the tail above |x|
    poly *= np.float32(0.5)
    poly *= np.abs(x)  # subtracted from x where x > 0; minus the result elsewhere
    np.maximum(x, np.float32(0.0), out=out)
    out -= poly


@cache
def _blas() -> ThreadpoolController:
    """Controls the threads of numpy's BLAS library; looked up once."""
    return ThreadpoolController()


def _norm_weights(weights: Mapping[str, Array], name: str) -> tuple[Floats, Floats]:
    return weights[f"{name}.weight"].astype(np.float32), weights[f"{name}.bias"].astype(np.float32)


def _layer_norm(x: Floats, weight: Floats, bias: Floats) -> Floats:
    """Layer normalisation over the last axis."""
    x = x - x.mean(-1, keepdims=True)
    variance = np.einsum("...c,...c->...", x, x) / np.float32(x.shape[-1])
    x /= np.sqrt(variance + np.float32(EPSILON))[..., None]
    x *= weight
    x += bias
    return x
