"""Training the attention fusion of a model, from embeddings of captioned photos.

The photo's network learns that queries find photos stored with one of their other captions, of
which some are swapped or missing. The query's network learns composed queries
(`retrieval.evaluation.composed_queries`). What the model has learned from, it embeds better than
anything new, which would make the photo look more trustworthy than it is: noise with the
embeddings' own covariance takes that back, as much as makes recall on these photos what it is on
the held-out ones.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from indexes.arrays import Floats
from indexes.lazy_imports import load_torch
from retrieval.evaluation.fusion_cases import (
    CASES,
    MISSING,
    SWAPPED,
    Captioned,
    Material,
    best_alpha,
    make_case,
    recall_at,
)
from retrieval.fusion.attention import (
    PHOTO,
    TEXT,
    Attention,
    Fusion,
    Role,
    attend,
    compose,
    normalise,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = load_torch()


@dataclass(frozen=True)
class FusionRecipe:
    """Hyper-parameters, chosen on Flickr8k's validation photos; docs/fusion.md says what others
    gave."""

    epochs: int = 40
    batch: int = 600
    rate: float = 2e-3
    gate_rate: float = 2e-2
    photo_decay: float = 5.0
    query_decay: float = 12.0
    """Weight decay of the residuals, in which the photos learned from would else be remembered."""
    query_residual: float = 0.5
    """The share of what a query's residual learned that is kept. All of it finds 0.3% more of the
    held-out photos and 5% fewer of photos of another kind."""
    gate: int = 64
    residual: int = 64
    """Hidden units."""
    robust: float = 0.3
    """q of the loss (1 - p^q) / q, between cross-entropy (0) and the error itself (1), for photos:
    what is swapped cannot be found and must not rule."""
    temperature: float = 0.05


@dataclass(frozen=True)
class Step:
    """One line of the log. recall: on the held-out photos, in percent: R@1 over the three cases of
    captions (photo), the mean of R@1 and R@10 (query)."""

    role: str
    epoch: int
    loss: float
    recall: float


@dataclass(frozen=True)
class _Batch:
    """rows, kinds and present as for `attend`; others: what the fused rows are compared with;
    right: for each query the position of what it should find."""

    rows: list[Tensor]
    present: list[Tensor]
    others: Tensor
    right: Tensor


def train_fusion(
    fingerprint: str,
    learn: Material,
    held: Material,
    recipe: FusionRecipe = FusionRecipe(),
    seed: int = 0,
    after: Callable[[Step], None] = lambda _: None,
) -> tuple[Fusion, list[Step]]:
    """The fusion that finds most of the held-out photos, and the log.

    Zhang and Sabuncu, Generalized Cross Entropy Loss, NeurIPS 2018, for the loss.
    """
    started = time.perf_counter()
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    noise = match_noise(learn.captioned, held.captioned, random)
    blur = Blur(learn.images, noise, random)
    agreement = _agreement(held.captioned)
    log: list[Step] = []

    cases = {name: [make_case(name, held.captioned, s) for s in (100, 101)] for name in CASES}

    def photo_recall(network: Attention) -> float:
        fusion = Fusion(photo=network)
        return float(
            np.mean(
                [
                    recall_at(1, c.queries, c.attention(fusion), c.owners)
                    for some in cases.values()
                    for c in some
                ]
            )
        )

    def query_recall(network: Attention) -> float:
        asked = held.composed
        queries = compose(Fusion(query=network), held.images[asked.examples], asked.texts)
        found = [recall_at(k, queries, held.images, asked.targets) for k in (1, 10)]
        return sum(found) / 2

    def go(
        role: Role, decay: float, robust: float, batches: Any, recall: Callable[[Attention], float]
    ) -> Attention:
        network = _new(learn.images.shape[1], recipe, agreement)
        return _learn(role, network, recipe, decay, robust, batches, recall, log, after)

    photo = go(
        "photo",
        recipe.photo_decay,
        recipe.robust,
        lambda: _photo_batches(learn.captioned, recipe, blur, random),
        photo_recall,
    )
    query = go(
        "query",
        recipe.query_decay,
        0.0,
        lambda: _query_batches(learn, recipe, blur, random),
        query_recall,
    )
    query = replace(query, back=np.float32(recipe.query_residual) * query.back)
    about = {
        "fingerprint": fingerprint,
        "photos": len(learn.images),
        "held_out": len(held.images),
        "noise": round(noise, 3),
        "seed": seed,
        "recipe": asdict(recipe),
        "alpha": {name: best_alpha(some) for name, some in cases.items()},
        "held_out_recall": {
            role: max(step.recall for step in log if step.role == role)
            for role in ("photo", "query")
        },
        "seconds": round(time.perf_counter() - started, 1),
    }
    return Fusion("new", photo, query, about), log


# Noise -----------------------------------------------------------------------------------------


class Blur:
    """Adds noise of the embeddings' own covariance to unit rows, float32 [n, dim]."""

    def __init__(self, images: Floats, strength: float, random: np.random.Generator) -> None:
        self.images, self.strength, self.random = images, strength, random
        self.shape = _root(images)

    def __call__(self, rows: Floats) -> Floats:
        if not self.strength:
            return rows
        noise = self.random.standard_normal(rows.shape, np.float32) @ self.shape
        return normalise(rows + np.float32(self.strength) * noise)


def _root(rows: Floats) -> Floats:
    """A square root of the covariance of rows, float32 [dim, dim]."""
    values, vectors = np.linalg.eigh(np.cov(rows.T.astype(np.float64)))
    result: Floats = (np.sqrt(np.maximum(values, 0))[:, None] * vectors.T).astype(np.float32)
    return result


def match_noise(learn: Captioned, held: Captioned, random: np.random.Generator) -> float:
    """How much noise makes captions find the photos learned from no better than held-out ones.

    By bisection on R@1 over equally many photos; 0 where it is no better without.
    """
    count = min(len(learn.images), len(held.images), 1000)

    def found(captioned: Captioned, strength: float) -> float:
        some = np.sort(np.random.default_rng(0).permutation(len(captioned.images))[:count])
        images = Blur(captioned.images, strength, random)(captioned.images[some])
        texts, owners = [], []
        for place, i in enumerate(some):
            rows = captioned.captions[captioned.first[i] : captioned.first[i + 1]]
            texts.append(rows)
            owners += [place] * len(rows)
        return recall_at(1, np.concatenate(texts), images, np.array(owners))

    goal = found(held, 0.0)
    if found(learn, 0.0) <= goal:
        return 0.0
    low, high = 0.0, 2.0
    for _ in range(8):
        middle = (low + high) / 2
        low, high = (middle, high) if found(learn, middle) > goal else (low, middle)
    return (low + high) / 2


def _agreement(held: Captioned) -> tuple[float, float]:
    """Mean and spread of the cosine between held-out photos and their captions."""
    owners = np.repeat(np.arange(len(held.images)), np.diff(held.first))
    cosines = (held.captions * held.images[owners]).sum(1)
    return float(cosines.mean()), float(max(cosines.std(), 1e-3))


# Batches ---------------------------------------------------------------------------------------


def _photo_batches(
    captioned: Captioned, recipe: FusionRecipe, blur: Blur, random: np.random.Generator
) -> Iterator[_Batch]:
    total = len(captioned.images)
    size = min(recipe.batch, total)
    order = random.permutation(total)
    settings = ((0.0, 0.0), (SWAPPED, 0.0), (0.0, MISSING), (SWAPPED / 2, MISSING / 2))
    for start in range(0, total - size + 1, size):
        chosen = order[start : start + size]
        swapped, missing = settings[random.integers(len(settings))]
        stored, asked = np.empty((size, blur.images.shape[1]), np.float32), np.empty(size, np.int64)
        for place, i in enumerate(chosen):
            own = captioned.first[i] + random.permutation(
                captioned.first[i + 1] - captioned.first[i]
            )
            asked[place] = own[0]
            # Mostly one caption is stored, now and then the mean of some.
            some = own[1 : 1 + random.choice((1, 1, 1, 2, 3))]
            stored[place] = captioned.captions[some].mean(0)
        stored = normalise(stored)
        wrong = np.flatnonzero(random.random(size) < swapped)
        stored[wrong] = stored[np.roll(wrong, 1)]
        has = random.random(size) >= missing
        yield _Batch(
            [torch.from_numpy(blur(captioned.images[chosen])), torch.from_numpy(stored)],
            [torch.ones(size), torch.from_numpy(has.astype(np.float32))],
            torch.from_numpy(captioned.captions[asked]),
            torch.arange(size),
        )


def _query_batches(
    learn: Material, recipe: FusionRecipe, blur: Blur, random: np.random.Generator
) -> Iterator[_Batch]:
    asked = learn.composed
    size = min(recipe.batch, len(asked.texts))
    order = random.permutation(len(asked.texts))
    for start in range(0, len(order) - size + 1, size):
        chosen = order[start : start + size]
        ends = np.concatenate([asked.examples[chosen], asked.targets[chosen]])
        photos, place = np.unique(ends, return_inverse=True)
        gallery = torch.from_numpy(blur(learn.images[photos]))
        yield _Batch(
            [gallery[place[:size]], torch.from_numpy(asked.texts[chosen])],
            [torch.ones(size), torch.ones(size)],
            gallery,
            torch.from_numpy(place[size:]),
        )


# The loop --------------------------------------------------------------------------------------


def _new(dim: int, recipe: FusionRecipe, agreement: tuple[float, float]) -> Attention:
    """A network that is the plain mean."""
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


def _learn(
    role: Role,
    network: Attention,
    recipe: FusionRecipe,
    decay: float,
    robust: float,
    batches: Callable[[], Iterator[_Batch]],
    recall: Callable[[Attention], float],
    log: list[Step],
    after: Callable[[Step], None],
) -> Attention:
    """The network after the epoch that finds most on the held-out photos."""
    learned = {p.name: getattr(network, p.name) for p in fields(network) if p.name not in _FIXED}
    for value in learned.values():
        value.requires_grad_()
    scale = torch.tensor(-float(np.log(recipe.temperature)), requires_grad=True)
    optimiser = torch.optim.AdamW(
        [
            {"params": [learned[n] for n in _GATE], "weight_decay": 0.0, "lr": recipe.gate_rate},
            {"params": [learned["bias"], scale], "weight_decay": 0.0},
            {"params": [learned["look"], learned["back"]], "weight_decay": decay},
        ],
        lr=recipe.rate,
    )
    steps = recipe.epochs * sum(1 for _ in batches())
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, [recipe.gate_rate, recipe.rate, recipe.rate], total_steps=steps + 1
    )
    best = Step(role, -1, float("nan"), recall(_as_numpy(network)))
    kept = _as_numpy(network)
    log.append(best)
    after(best)
    for epoch in range(recipe.epochs):
        losses = []
        for batch in batches():
            found = attend(network, batch.rows, (PHOTO, TEXT), batch.present)
            fused = torch.nn.functional.normalize(found.sums, dim=1)
            pairs = (fused, batch.others) if role == "query" else (batch.others, fused)
            sure = torch.log_softmax(scale.exp() * pairs[0] @ pairs[1].T, 1)
            sure = sure.gather(1, batch.right[:, None])[:, 0]
            loss = ((1 - (robust * sure).exp()) / robust if robust else -sure).mean()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            losses.append(loss.item())
        now = _as_numpy(network)
        step = Step(role, epoch, float(np.mean(losses)), recall(now))
        log.append(step)
        after(step)
        if step.recall > best.recall:
            best, kept = step, now
    return kept


def _as_numpy(network: Attention) -> Attention:
    return Attention(
        *(
            np.asarray(copy.copy(getattr(network, p.name).detach().numpy()))
            for p in fields(Attention)
        )
    )


def count_parameters(networks: Sequence[Attention | None]) -> int:
    """All weights that were learned."""
    return sum(
        int(np.asarray(getattr(n, p.name)).size)
        for n in networks
        if n is not None
        for p in fields(Attention)
    )
