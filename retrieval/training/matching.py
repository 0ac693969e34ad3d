"""Training the matching of a model: telling true pairs of photo and text from near misses.

Photos alone, and fused with another of their captions, right, swapped or missing; each text with
its own photo and the nearest others, in the order that a search gives them, since those are what is
re-ranked. As for a fusion, noise takes back what the model has learned by heart. How much of what
was learned is kept is what re-ranking finds most with on the held-out photos; that may be nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np

from indexes.arrays import Floats
from indexes.lazy_imports import load_torch
from retrieval.evaluation.fusion_cases import Captioned, make_case
from retrieval.fusion.attention import Fusion
from retrieval.ranking.hubness import nnn_bias
from retrieval.ranking.matching import Matching, MatchingNetwork, score_residual
from retrieval.ranking.reranking import RERANK_DEPTH
from retrieval.training.fusion import Blur, match_noise

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = load_torch()


SHARES = tuple(round(0.1 * i, 1) for i in range(11))
"""How much of what was learned may be kept."""


@dataclass(frozen=True)
class MatchingRecipe:
    """Hyper-parameters, chosen on Flickr8k's validation photos; docs/fusion.md says what others
    gave."""

    epochs: int = 30
    batch: int = 1000
    rate: float = 1e-3
    score_rate: float = 2e-2
    decay: float = 5.0
    dropout: float = 0.2
    hidden: int = 64
    rank: int = 64
    hard: int = 10
    """How many of the nearest wrong photos each text is told from."""
    swapped: float = 0.15


def train_matching(
    fingerprint: str,
    fusion: Fusion,
    bank: Floats,
    learn: Captioned,
    held: Captioned,
    recipe: MatchingRecipe = MatchingRecipe(),
    seed: int = 0,
    after: Callable[[int, float], None] = lambda *_: None,
) -> tuple[Matching, dict[float, float]]:
    """The matching that goes with a fusion, and what re-ranking finds by how much of it is kept.

    bank: the queries that hubs are known by, float32 [b, dim]. after: is told each epoch and loss.
    What is found are held-out photos, of which none, half and all have a caption: the mean of R@1
    and R@5 in percent. The share that finds most is kept.
    """
    started = time.perf_counter()
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    noise = match_noise(learn, held, random)
    blur = Blur(learn.images, noise, random)
    network = _new(learn.images.shape[1], recipe)
    learned = {f.name: getattr(network, f.name).requires_grad_() for f in fields(MatchingNetwork)}
    some = {"look": recipe.decay, "left": recipe.decay, "right": recipe.decay}
    optimiser = torch.optim.AdamW(
        [
            {
                "params": [value],
                "weight_decay": some.get(name, 0.0),
                "lr": recipe.score_rate if value.ndim == 0 else recipe.rate,
            }
            for name, value in learned.items()
        ]
    )
    rates = [group["lr"] for group in optimiser.param_groups]
    steps = recipe.epochs * (len(learn.images) // min(recipe.batch, len(learn.images)))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rates, total_steps=steps + 1)
    for epoch in range(recipe.epochs):
        losses = []
        for batch in _batches(learn, fusion, bank, recipe, blur, random):
            added = score_residual(
                network,
                batch.fused,
                batch.photos,
                batch.texts,
                lambda x: torch.nn.functional.dropout(x, recipe.dropout),
            )
            logits = network.scale * batch.scores + network.offset + added
            wrong = torch.nn.functional.softplus(logits[:, 1:]).mean()
            loss = torch.nn.functional.softplus(-logits[:, 0]).mean() + wrong
            # Beside whether each pair is a true one: which of all that a text is put to is.
            loss = loss - torch.log_softmax(logits, 1)[:, 0].mean()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            losses.append(loss.item())
        after(epoch, float(np.mean(losses)))
    whole = _in_cosines(network)
    recall = _recall(Matching(whole, fusion), bank, held)
    share = max(recall, key=lambda s: recall[s])  # the smallest of equals
    about = {
        "fingerprint": fingerprint,
        "fusion": fusion.name,
        "photos": len(learn.images),
        "held_out": len(held.images),
        "noise": round(noise, 3),
        "seed": seed,
        "recipe": asdict(recipe),
        "share": share,
        "held_out_recall": {str(s): round(found, 3) for s, found in recall.items()},
        "seconds": round(time.perf_counter() - started, 1),
    }
    kept = np.float32(share)
    network = replace(whole, out=kept * whole.out, right=kept * whole.right)
    return Matching(network, fusion, about), recall


@dataclass(frozen=True)
class _Batch:
    """Pairs, [n, 1 + hard], each row's first the true one: the fused features, the photos as they
    are searched and the texts, [..., dim]; what a ranking orders them by."""

    fused: Tensor
    photos: Tensor
    texts: Tensor
    scores: Tensor


def _batches(
    learn: Captioned,
    fusion: Fusion,
    bank: Floats,
    recipe: MatchingRecipe,
    blur: Blur,
    random: np.random.Generator,
) -> Iterator[_Batch]:
    total, dim = learn.images.shape
    size = min(recipe.batch, total)
    hard = min(recipe.hard, size - 1)
    order = random.permutation(total)
    for start in range(0, total - size + 1, size):
        chosen = order[start : start + size]
        count = np.diff(learn.first)[chosen]
        asked = random.integers(0, count)
        other = (asked + random.integers(1, count)) % count
        texts = learn.captions[learn.first[chosen] + asked]
        said = learn.captions[learn.first[chosen] + other]
        wrong = np.flatnonzero(random.random(size) < recipe.swapped)
        said[wrong] = said[np.roll(wrong, 1)]
        photos = blur(learn.images[chosen])
        has = random.random(size) < random.choice((0.0, 0.5, 1.0))
        photos = np.where(has[:, None], fusion.photos(photos, said)[0], photos)
        scores = texts @ photos.T - nnn_bias(photos, bank)
        own = scores.diagonal().copy()[:, None]
        np.fill_diagonal(scores, -np.inf)
        near = np.argpartition(-scores, hard - 1, axis=1)[:, :hard]
        pairs = np.concatenate([np.arange(size)[:, None], near], 1)
        seen = photos[pairs]
        read = np.repeat(texts[:, None], hard + 1, 1)
        fused, _ = fusion.photos(seen.reshape(-1, dim), read.reshape(-1, dim))
        scores = np.concatenate([own, np.take_along_axis(scores, near, 1)], 1)
        arrays = (fused.reshape(seen.shape), seen, read, scores)
        yield _Batch(*(torch.from_numpy(array) for array in arrays))


def _new(dim: int, recipe: MatchingRecipe) -> MatchingNetwork:
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
    """The same in numpy, what it adds not in logits but in cosines."""
    found = {
        f.name: getattr(network, f.name).detach().numpy().copy() for f in fields(MatchingNetwork)
    }
    scale = max(float(found["scale"]), 1e-3)
    return MatchingNetwork(
        **{**found, "scale": np.float32(scale)}
        | {name: found[name] / np.float32(scale) for name in ("out", "right")}
    )


def _recall(matching: Matching, bank: Floats, held: Captioned) -> dict[float, float]:
    """The mean of R@1 and R@5 of held-out photos, in percent, by the share that is kept."""
    found: dict[float, list[float]] = {share: [] for share in SHARES}
    for name in ("photo", "missing_50", "clean"):
        case = make_case("clean" if name == "photo" else name, held, 100)
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
            found[share] += [100 * float(hit[:, :k].any(1).mean()) for k in (1, 5)]
    return {share: float(np.mean(values)) for share, values in found.items()}
