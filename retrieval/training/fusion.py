"""Training the attention fusion of a model from embeddings of captioned photos.

The network for photos is trained so that queries find photos that are stored with another of their
captions, of which some are swapped or missing. The network for queries is trained on composed
queries. Reading data sets and writing files is not done here (`fusion_run`).
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np

from indexes.lazy_imports import load_torch
from retrieval.evaluation.fusion_cases import CASES, FusionCase, best_alpha, make_case, recall_at
from retrieval.evaluation.fusion_data import CaptionedEmbeddings, FusionData
from retrieval.fusion.attention import PHOTO, TEXT, Attention, Fusion, Role, attend, compose
from retrieval.training.fusion_batches import FusionBatch, photo_batches, query_batches
from retrieval.training.noise import EmbeddingNoise, match_noise

if TYPE_CHECKING:
    import torch
else:
    torch = load_torch()


@dataclass(frozen=True)
class FusionRecipe:
    """Hyper-parameters, chosen on Flickr8k's validation photos; docs/fusion.md has the results of
    other values."""

    epochs: int = 40
    batch: int = 600
    rate: float = 2e-3
    gate_rate: float = 2e-2
    photo_decay: float = 5.0
    query_decay: float = 12.0
    """Weight decay of the residuals, which could otherwise memorise the training photos."""
    query_residual: float = 0.5
    """The share of the query's trained residual that is used. With all of it, recall is 0.3% higher
    on the held-out photos and 5% lower on photos of another kind."""
    gate: int = 64
    residual: int = 64
    """Hidden units."""
    robust: float = 0.3
    """q of the photos' loss (1 - p^q) / q, between cross-entropy (0) and the error rate (1). Photos
    with swapped captions cannot be found and must not dominate the loss."""
    temperature: float = 0.05


@dataclass(frozen=True)
class FusionEpoch:
    """One epoch of one network; -1 is the untrained network. recall: on the held-out photos, in
    percent: R@1 over the three cases of captions (photo), the mean of R@1 and R@10 (query)."""

    role: str
    epoch: int
    loss: float
    recall: float


OnEpoch = Callable[[FusionEpoch], None]


def fit_fusion(
    fingerprint: str,
    training: FusionData,
    held_out: FusionData,
    recipe: FusionRecipe = FusionRecipe(),
    seed: int = 0,
    on_epoch: OnEpoch = lambda _: None,
) -> tuple[Fusion, list[FusionEpoch]]:
    """Train both networks; returns the fusion with the best held-out recall, and all epochs.

    fingerprint: of the model whose embeddings these are.
    """
    started = time.perf_counter()
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    strength = match_noise(training.captioned, held_out.captioned, random)
    noise = EmbeddingNoise(training.images, strength, random)
    dim = training.images.shape[1]
    agreement = _agreement(held_out.captioned)
    cases = {
        name: [make_case(name, held_out.captioned, draw) for draw in (100, 101)] for name in CASES
    }
    photo, photo_epochs = _fit_network(
        "photo",
        _untrained(dim, recipe, agreement),
        recipe,
        lambda: photo_batches(training.captioned, recipe.batch, noise, random),
        lambda network: _photo_recall(network, [case for some in cases.values() for case in some]),
        on_epoch,
    )
    query, query_epochs = _fit_network(
        "query",
        _untrained(dim, recipe, agreement),
        recipe,
        lambda: query_batches(training, recipe.batch, noise, random),
        lambda network: _query_recall(network, held_out),
        on_epoch,
    )
    query = replace(query, back=np.float32(recipe.query_residual) * query.back)
    about = {
        "fingerprint": fingerprint,
        "photos": len(training.images),
        "held_out": len(held_out.images),
        "noise": round(strength, 3),
        "seed": seed,
        "recipe": asdict(recipe),
        "alpha": {name: best_alpha(some) for name, some in cases.items()},
        "held_out_recall": {
            "photo": max(epoch.recall for epoch in photo_epochs),
            "query": max(epoch.recall for epoch in query_epochs),
        },
        "seconds": round(time.perf_counter() - started, 1),
    }
    return Fusion("new", photo, query, about), photo_epochs + query_epochs


def _photo_recall(network: Attention, cases: list[FusionCase]) -> float:
    """Mean R@1 over the cases, in percent."""
    fusion = Fusion(photo=network)
    recalls = [recall_at(1, case.queries, case.attention(fusion), case.owners) for case in cases]
    return float(np.mean(recalls))


def _query_recall(network: Attention, held_out: FusionData) -> float:
    """The mean of R@1 and R@10 of the composed queries, in percent."""
    composed = held_out.composed
    queries = compose(Fusion(query=network), held_out.images[composed.examples], composed.texts)
    return sum(recall_at(k, queries, held_out.images, composed.targets) for k in (1, 10)) / 2


def _agreement(captioned: CaptionedEmbeddings) -> tuple[float, float]:
    """Mean and standard deviation of the cosine between photos and their captions."""
    owners = np.repeat(np.arange(len(captioned.images)), np.diff(captioned.offsets))
    cosines = (captioned.captions * captioned.images[owners]).sum(1)
    return float(cosines.mean()), float(max(cosines.std(), 1e-3))


def _untrained(dim: int, recipe: FusionRecipe, agreement: tuple[float, float]) -> Attention:
    """A network that computes the plain mean."""
    h, r = recipe.gate, recipe.residual
    return Attention(
        centre=torch.tensor(agreement[0]),
        spread=torch.tensor(agreement[1]),
        cosine=torch.randn(h),
        beyond=torch.randn(h),
        kind=torch.randn(2, h),
        score=torch.zeros(h),
        look=torch.randn(2, dim, r) / dim**0.5,
        bias=torch.zeros(r),
        back=torch.zeros(r, dim),
    )


_FIXED, _GATE = ("centre", "spread"), ("cosine", "beyond", "kind", "score")


def _fit_network(
    role: Role,
    network: Attention,
    recipe: FusionRecipe,
    batches: Callable[[], Iterator[FusionBatch]],
    recall: Callable[[Attention], float],
    on_epoch: OnEpoch,
) -> tuple[Attention, list[FusionEpoch]]:
    """Train one network; returns it after the epoch with the best held-out recall, and all epochs.

    The loss for photos is that of Zhang and Sabuncu, Generalized Cross Entropy Loss, NeurIPS 2018.
    """
    decay = recipe.photo_decay if role == "photo" else recipe.query_decay
    robust = recipe.robust if role == "photo" else 0.0
    trained = {p.name: getattr(network, p.name) for p in fields(network) if p.name not in _FIXED}
    for value in trained.values():
        value.requires_grad_()
    scale = torch.tensor(-float(np.log(recipe.temperature)), requires_grad=True)
    optimiser = torch.optim.AdamW(
        [
            {"params": [trained[n] for n in _GATE], "weight_decay": 0.0, "lr": recipe.gate_rate},
            {"params": [trained["bias"], scale], "weight_decay": 0.0},
            {"params": [trained["look"], trained["back"]], "weight_decay": decay},
        ],
        lr=recipe.rate,
    )
    steps = recipe.epochs * sum(1 for _ in batches())
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, [recipe.gate_rate, recipe.rate, recipe.rate], total_steps=steps + 1
    )
    best_network = _as_numpy(network)
    best = FusionEpoch(role, -1, float("nan"), recall(best_network))
    epochs = [best]
    on_epoch(best)
    for number in range(recipe.epochs):
        losses = []
        for batch in batches():
            present = [torch.ones(len(batch.images)), batch.has_text]
            attended = attend(network, [batch.images, batch.texts], (PHOTO, TEXT), present)
            fused = torch.nn.functional.normalize(attended.sums, dim=1)
            # Photos are fused and searched; composed queries are fused and search.
            queries, gallery = (fused, batch.others) if role == "query" else (batch.others, fused)
            log_p = torch.log_softmax(scale.exp() * queries @ gallery.T, 1)
            log_p = log_p.gather(1, batch.target[:, None])[:, 0]
            loss = ((1 - (robust * log_p).exp()) / robust if robust else -log_p).mean()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            losses.append(loss.item())
        current = _as_numpy(network)
        epoch = FusionEpoch(role, number, float(np.mean(losses)), recall(current))
        epochs.append(epoch)
        on_epoch(epoch)
        if epoch.recall > best.recall:
            best, best_network = epoch, current
    return best_network, epochs


def _as_numpy(network: Attention) -> Attention:
    return Attention(
        *(
            np.asarray(copy.copy(getattr(network, p.name).detach().numpy()))
            for p in fields(Attention)
        )
    )
