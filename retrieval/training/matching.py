"""Training the matching of a model: telling true pairs of photo and text from near misses.

Photos are used alone and fused with another of their captions, right, swapped or missing; each text
is paired with its own photo and with the nearest others in the order of a search, since those are
what is re-ranked. As for a fusion, noise makes training photos as hard as new ones. Only a share of
the trained network is used, the one with which re-ranking finds most held-out photos; it may be 0.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np

from indexes.arrays import Floats
from indexes.lazy_imports import load_torch
from retrieval.evaluation.fusion_cases import make_case
from retrieval.evaluation.fusion_data import CaptionedEmbeddings
from retrieval.fusion.attention import Fusion
from retrieval.ranking.hubness import nnn_bias
from retrieval.ranking.matching import Matching, MatchingNetwork, score_residual
from retrieval.ranking.reranking import RERANK_DEPTH
from retrieval.training.noise import EmbeddingNoise, match_noise

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = load_torch()


SHARES = tuple(round(0.1 * i, 1) for i in range(11))
"""The shares of the trained network that are tried."""


@dataclass(frozen=True)
class MatchingRecipe:
    """Hyper-parameters, chosen on Flickr8k's validation photos; docs/fusion.md has the results of
    other values."""

    epochs: int = 30
    batch: int = 1000
    rate: float = 1e-3
    score_rate: float = 2e-2
    decay: float = 5.0
    dropout: float = 0.2
    hidden: int = 64
    rank: int = 64
    hard: int = 10
    """How many of the nearest wrong photos are near misses of each text."""
    swapped: float = 0.15


@dataclass(frozen=True)
class MatchingData:
    """What a matching is trained on, all by one model.

    fingerprint: of the model; fusion: computes the features of pairs; bank: the generic queries by
    which hubs are recognised, float32 [b, dim].
    """

    fingerprint: str
    fusion: Fusion
    bank: Floats
    training: CaptionedEmbeddings
    held_out: CaptionedEmbeddings


def fit_matching(
    data: MatchingData,
    recipe: MatchingRecipe = MatchingRecipe(),
    seed: int = 0,
    on_epoch: Callable[[int, float], None] = lambda *_: None,
) -> tuple[Matching, dict[float, float]]:
    """Train the matching for a fusion; returns it, and the recall of re-ranking for each share.

    on_epoch: takes the number of the epoch and its mean loss. Recall is the mean of R@1 and R@5 in
    percent on the held-out photos, of which none, half and all have a caption. The share with the
    highest recall is used.
    """
    started = time.perf_counter()
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    training, held_out, fusion = data.training, data.held_out, data.fusion
    strength = match_noise(training, held_out, random)
    noise = EmbeddingNoise(training.images, strength, random)
    network = _untrained(training.images.shape[1], recipe)
    trained = {f.name: getattr(network, f.name).requires_grad_() for f in fields(MatchingNetwork)}
    decays = {"look": recipe.decay, "left": recipe.decay, "right": recipe.decay}
    optimiser = torch.optim.AdamW(
        [
            {
                "params": [value],
                "weight_decay": decays.get(name, 0.0),
                "lr": recipe.score_rate if value.ndim == 0 else recipe.rate,
            }
            for name, value in trained.items()
        ]
    )
    rates = [group["lr"] for group in optimiser.param_groups]
    steps = recipe.epochs * (len(training.images) // min(recipe.batch, len(training.images)))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rates, total_steps=steps + 1)
    for epoch in range(recipe.epochs):
        losses = []
        for batch in _batches(data, recipe, noise, random):
            added = score_residual(
                network,
                batch.fused,
                batch.photos,
                batch.texts,
                lambda x: torch.nn.functional.dropout(x, recipe.dropout),
            )
            logits = network.scale * batch.scores + network.offset + added
            near_misses = torch.nn.functional.softplus(logits[:, 1:]).mean()
            loss = torch.nn.functional.softplus(-logits[:, 0]).mean() + near_misses
            # Also compare the pairs of each text: which of them is the true one?
            loss = loss - torch.log_softmax(logits, 1)[:, 0].mean()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            losses.append(loss.item())
        on_epoch(epoch, float(np.mean(losses)))
    network = _in_cosines(network)
    recall = _recall(Matching(network, fusion), data.bank, held_out)
    share = max(recall, key=lambda s: recall[s])  # the smallest of equals
    about = {
        "fingerprint": data.fingerprint,
        "fusion": fusion.name,
        "photos": len(training.images),
        "held_out": len(held_out.images),
        "noise": round(strength, 3),
        "seed": seed,
        "recipe": asdict(recipe),
        "share": share,
        "held_out_recall": {str(s): round(value, 3) for s, value in recall.items()},
        "seconds": round(time.perf_counter() - started, 1),
    }
    factor = np.float32(share)
    network = replace(network, out=factor * network.out, right=factor * network.right)
    return Matching(network, fusion, about), recall


@dataclass(frozen=True)
class _PairBatch:
    """Pairs of photo and text, [n, 1 + hard], the first of each row the true one. fused: features
    of the pair, photos: as they are searched, texts: [n, 1 + hard, dim] each; scores: what a
    ranking orders them by, [n, 1 + hard]."""

    fused: Tensor
    photos: Tensor
    texts: Tensor
    scores: Tensor


def _batches(
    data: MatchingData,
    recipe: MatchingRecipe,
    noise: EmbeddingNoise,
    random: np.random.Generator,
) -> Iterator[_PairBatch]:
    training, fusion = data.training, data.fusion
    total, dim = training.images.shape
    size = min(recipe.batch, total)
    hard = min(recipe.hard, size - 1)
    order = random.permutation(total)
    for start in range(0, total - size + 1, size):
        chosen = order[start : start + size]
        count = np.diff(training.offsets)[chosen]
        query = random.integers(0, count)
        other = (query + random.integers(1, count)) % count
        texts = training.captions[training.offsets[chosen] + query]
        stored = training.captions[training.offsets[chosen] + other]
        swapped = np.flatnonzero(random.random(size) < recipe.swapped)
        stored[swapped] = stored[np.roll(swapped, 1)]
        photos = noise(training.images[chosen])
        has_caption = random.random(size) < random.choice((0.0, 0.5, 1.0))
        photos = np.where(has_caption[:, None], fusion.photos(photos, stored)[0], photos)
        scores = texts @ photos.T - nnn_bias(photos, data.bank)
        true = scores.diagonal().copy()[:, None]
        np.fill_diagonal(scores, -np.inf)
        near = np.argpartition(-scores, hard - 1, axis=1)[:, :hard]
        pairs = np.concatenate([np.arange(size)[:, None], near], 1)
        pair_photos = photos[pairs]
        pair_texts = np.repeat(texts[:, None], hard + 1, 1)
        fused, _ = fusion.photos(pair_photos.reshape(-1, dim), pair_texts.reshape(-1, dim))
        scores = np.concatenate([true, np.take_along_axis(scores, near, 1)], 1)
        arrays = (fused.reshape(pair_photos.shape), pair_photos, pair_texts, scores)
        yield _PairBatch(*(torch.from_numpy(array) for array in arrays))


def _untrained(dim: int, recipe: MatchingRecipe) -> MatchingNetwork:
    """A network that adds nothing."""
    return MatchingNetwork(
        scale=torch.tensor(20.0),
        offset=torch.tensor(-1.0),
        look=torch.randn(dim, recipe.hidden) / dim**0.5,
        bias=torch.zeros(recipe.hidden),
        out=torch.zeros(recipe.hidden),
        left=torch.randn(dim, recipe.rank) / dim**0.5,
        right=torch.zeros(dim, recipe.rank),
    )


def _in_cosines(network: MatchingNetwork) -> MatchingNetwork:
    """The same network in numpy, its output in units of the cosine instead of logits."""
    arrays = {
        f.name: getattr(network, f.name).detach().numpy().copy() for f in fields(MatchingNetwork)
    }
    scale = max(float(arrays["scale"]), 1e-3)
    return MatchingNetwork(
        **{**arrays, "scale": np.float32(scale)}
        | {name: arrays[name] / np.float32(scale) for name in ("out", "right")}
    )


def _recall(matching: Matching, bank: Floats, held_out: CaptionedEmbeddings) -> dict[float, float]:
    """The mean of R@1 and R@5 on the held-out photos, in percent, for each share."""
    recalls: dict[float, list[float]] = {share: [] for share in SHARES}
    for name in ("photo", "missing_50", "clean"):
        case = make_case("clean" if name == "photo" else name, held_out, 100)
        photos = case.images if name == "photo" else case.attention(matching.fusion)
        scores = case.queries @ photos.T - nnn_bias(photos, bank)
        first = np.argsort(-scores, axis=1, kind="stable")[:, :RERANK_DEPTH]
        texts = np.repeat(case.queries, first.shape[1], 0)
        added = matching.residual(photos[first.ravel()], texts).reshape(first.shape)
        base = np.take_along_axis(scores, first, 1)
        right = first == case.owners[:, None]
        for share in SHARES:
            order = np.argsort(-(base + np.float32(share) * added), axis=1, kind="stable")
            hit = np.take_along_axis(right, order, 1)
            recalls[share] += [100 * float(hit[:, :k].any(1).mean()) for k in (1, 5)]
    return {share: float(np.mean(values)) for share, values in recalls.items()}
