"""What fusion gains: photos with right, wrong and missing captions, and composed queries.

One caption of each photo is stored with it, the others are the queries; drawn anew for each of
three seeds. Compared with photos and captions alone and with the best fixed weight; and what
re-ranking by matching adds (`benchmarks.matching`). Run it as
`retrieval benchmark fusion` or `python -m benchmarks.fusion`.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks import matching as pairs
from indexes.arrays import Floats, Ints
from retrieval.datasets.captioned import CaptionedSet
from retrieval.datasets.embedding_cache import Progress, open_embedding_cache
from retrieval.encoders.registry import load_encoder
from retrieval.evaluation.bootstrap import Difference, Measured, compare, summarise
from retrieval.evaluation.fusion_cases import (
    ALPHAS,
    CASES,
    best_alpha,
    make_case,
    recall_at,
)
from retrieval.evaluation.fusion_data import (
    CaptionedEmbeddings,
    ComposedEmbeddings,
    embed_captioned,
    embed_composed,
)
from retrieval.evaluation.metrics import Ranks, inner_products, rank
from retrieval.fusion.attention import Fusion, compose, normalise
from retrieval.fusion.store import load_fusion
from retrieval.ranking.matching import load_matching
from retrieval.ranking.query_bank import bank_embeddings

SEEDS = (0, 1, 2)
SHOWN = ("R@1", "R@5", "R@10")


@dataclass(frozen=True)
class Method:
    """One way to fuse in one case. spread: the standard deviation of each measure over the seeds;
    above: how much it is above the best fixed weight, None for that itself and what it beats."""

    measured: Mapping[str, Measured]
    spread: Mapping[str, float]
    above: Mapping[str, Difference] | None = None
    uncaptioned: float | None = None
    """R@1 of the queries whose photo has no caption, where some have none."""


@dataclass(frozen=True)
class Fused:
    """All that was measured. alphas: the fixed weight of the photo by case, and of Slerp; matching:
    None where none was trained for the model."""

    captioned: CaptionedSet
    model: str
    fingerprint: str
    fusion: str
    alphas: Mapping[str, float]
    found_on: str
    cases: Mapping[str, Mapping[str, Method]]
    matching: Mapping[str, pairs.MatchingResult] | None
    seconds: float


@dataclass(frozen=True)
class _Embedded:
    """A set as embeddings, and composed queries of it, by seed."""

    images: Floats
    captioned: CaptionedEmbeddings
    composed: Sequence[ComposedEmbeddings]


def measure(
    captioned: CaptionedSet,
    val: CaptionedSet | None = None,
    model: str = "auto",
    skip_bad: bool = False,
    log: Callable[[str], None] = lambda _: None,
    progress: Progress = lambda *_: None,
) -> Fused:
    """Measure the fusion that a search with `model` would use on the photos of `captioned`.

    val: photos on which the fixed weights are found; None for those at hand, which favours the
    fixed weights. Raises RetrievalError.
    """
    started = time.perf_counter()
    encoder = load_encoder(model, log)
    fusion = load_fusion(encoder.fingerprint, encoder.dim)
    if fusion.photo is None:
        log(
            "No fusion was trained for this model: attention is the plain mean here. "
            "`retrieval train-fusion` trains one."
        )
    with open_embedding_cache(encoder, progress) as cache:
        embedded, used = {}, captioned
        for name, some in (("measured", captioned), ("val", val)):
            if some is not None:
                images, parts, there = embed_captioned(some, cache, skip_bad, log)
                asked = [embed_composed(there, cache, seed, 1) for seed in SEEDS]
                embedded[name] = _Embedded(images, parts, asked)
                used = there if name == "measured" else used
    here = embedded["measured"]
    alphas = _alphas(embedded.get("val", here))
    cases: dict[str, dict[str, Method]] = {}
    for done, name in enumerate(CASES):
        progress("cases", done, len(CASES) + 2)
        cases[name] = _photos(name, here.captioned, fusion, alphas[name])
    cases["composed"] = _composed(here, fusion, alphas["slerp"])
    progress("cases", len(CASES) + 1, len(CASES) + 2)
    trained = load_matching(encoder.fingerprint, encoder.dim)
    matched = None
    if trained is not None:
        matched = pairs.measure(trained, bank_embeddings(encoder), here.captioned, SEEDS)
    return Fused(
        used,
        encoder.name,
        encoder.fingerprint,
        fusion.name,
        alphas,
        captioned.split if val is None else val.split,
        cases,
        matched,
        time.perf_counter() - started,
    )


def _alphas(embedded: _Embedded) -> dict[str, float]:
    """The best fixed weights: by R@1 for photos, by the mean of R@1 and R@10 for Slerp."""
    found = {
        name: best_alpha([make_case(name, embedded.captioned, seed) for seed in SEEDS])
        for name in CASES
    }
    scores = []
    for alpha in ALPHAS:
        scores.append(
            sum(
                recall_at(
                    k,
                    slerp(embedded.images[asked.examples], asked.texts, alpha),
                    embedded.images,
                    asked.targets,
                )
                for asked in embedded.composed
                for k in (1, 10)
            )
        )
    return {**found, "slerp": ALPHAS[int(np.argmax(scores))]}


def _photos(
    name: str, captioned: CaptionedEmbeddings, fusion: Fusion, alpha: float
) -> dict[str, Method]:
    ranks: dict[str, list[Ranks]] = {}
    without: dict[str, list[float]] = {}
    for seed in SEEDS:
        case = make_case(name, captioned, seed)
        galleries = {
            "photo_only": case.images,
            "caption_only": case.caption_only(),
            "mean": case.fixed(0.5),
            "fixed_alpha": case.fixed(alpha),
            "attention": case.attention(fusion),
        }
        for method, gallery in galleries.items():
            found = _ranks(case.queries, gallery, case.owners)
            ranks.setdefault(method, []).append(found)
            if not case.has_caption.all():
                asked = ~case.has_caption[case.owners]
                right = found.values["R@1"][asked]
                without.setdefault(method, []).append(float(right.mean()))
    return _methods(ranks, "fixed_alpha", without)


def _composed(embedded: _Embedded, fusion: Fusion, alpha: float) -> dict[str, Method]:
    ranks: dict[str, list[Ranks]] = {}
    for asked in embedded.composed:
        photos, texts = embedded.images[asked.examples], asked.texts
        queries = {
            "text_only": texts,
            "photo_only": photos,
            "mean": normalise(photos + texts),
            "slerp": slerp(photos, texts, alpha),
            "attention": compose(fusion, photos, texts),
        }
        for method, rows in queries.items():
            ranks.setdefault(method, []).append(_ranks(rows, embedded.images, asked.targets))
    return _methods(ranks, "slerp", {})


def slerp(photos: Floats, texts: Floats, alpha: float) -> Floats:
    """Spherical interpolation, the photo weighing `alpha`; float32 [n, dim].

    Shoemake, Animating Rotation with Quaternion Curves, 1985; for composed queries Jang et al.,
    Spherical Linear Interpolation and Text-Anchoring for Zero-shot Composed Image Retrieval, 2024.
    """
    cosines = np.clip((photos * texts).sum(1, keepdims=True), -1, 1)
    angle = np.maximum(np.arccos(cosines), 1e-6)
    return normalise(np.sin(alpha * angle) * photos + np.sin((1 - alpha) * angle) * texts)


def _ranks(queries: Floats, gallery: Floats, owners: Ints) -> Ranks:
    return rank(inner_products(queries, gallery), owners, np.arange(len(gallery)))


def _methods(
    ranks: Mapping[str, Sequence[Ranks]], baseline: str, without: Mapping[str, Sequence[float]]
) -> dict[str, Method]:
    """Figures over all seeds together; intervals are from resampled photos."""
    pooled = {
        name: Ranks(
            np.concatenate([one.ranks for one in some]), np.concatenate([o.owners for o in some])
        )
        for name, some in ranks.items()
    }
    methods = {}
    for name, found in pooled.items():
        spread = {
            metric: float(np.std([one.values[metric].mean() for one in ranks[name]]))
            for metric in SHOWN
        }
        above = compare(pooled[baseline], found) if name == "attention" else None
        bare = float(np.mean(without[name])) if name in without else None
        methods[name] = Method(summarise(found), spread, above, bare)
    return methods


# As text --------------------------------------------------------------------------------------


def as_json(fused: Fused) -> dict[str, Any]:
    """Plain values, in percent. Each method has its 95% intervals, its spread over the seeds, and
    the attention how much it is above the best fixed weight (Slerp for composed queries)."""
    values: dict[str, Any] = {
        "dataset": fused.captioned.name,
        "split": fused.captioned.split,
        "images": len(fused.captioned.photos),
        "captions": len(fused.captioned.captions),
        "model": fused.model,
        "fingerprint": fused.fingerprint,
        "fusion": fused.fusion,
        "seeds": list(SEEDS),
        "alpha": {**fused.alphas, "found_on": fused.found_on},
    }
    for case, methods in fused.cases.items():
        values[case] = {name: _plain(method) for name, method in methods.items()}
        if "fixed_alpha" in methods:
            values[case]["fixed_alpha"]["alpha"] = fused.alphas[case]
    values["matching"] = None if fused.matching is None else pairs.as_json(fused.matching)
    return {**values, "seconds": round(fused.seconds, 2)}


def _plain(method: Method) -> dict[str, Any]:
    values: dict[str, Any] = {m: round(method.measured[m].value, 3) for m in SHOWN}
    values["intervals"] = {
        m: [round(method.measured[m].low, 3), round(method.measured[m].high, 3)] for m in SHOWN
    }
    values["spread"] = {m: round(method.spread[m], 3) for m in SHOWN}
    if method.uncaptioned is not None:
        values["R@1_without_caption"] = round(method.uncaptioned, 3)
    if method.above is not None:
        values["above_baseline"] = {
            m: {
                "difference": round(method.above[m].value, 3),
                "interval": [round(method.above[m].low, 3), round(method.above[m].high, 3)],
                "p": method.above[m].p,
            }
            for m in SHOWN
        }
    return values


def as_table(fused: Fused) -> str:
    """Words and figures for a terminal."""
    lines = [
        f"{fused.captioned.name}, split {fused.captioned.split}: "
        f"{len(fused.captioned.photos):,} photos; model {fused.model} (weights "
        f"{fused.fingerprint}), fusion {fused.fusion}; {fused.seconds:.1f} s",
        f"fixed weights of the photo, found on {fused.found_on}: "
        + ", ".join(f"{name} {alpha:g}" for name, alpha in fused.alphas.items()),
    ]
    for case, methods in fused.cases.items():
        bare = any(m.uncaptioned is not None for m in methods.values())
        lines += ["", f"{case:<14}{'R@1':<20}{'R@5':<20}{'R@10':<20}".rstrip()]
        if bare:
            lines[-1] += "  R@1 of photos without caption"
        for name, method in methods.items():
            cells = "".join(f"{_cell(method.measured[m]):<20}" for m in SHOWN)
            more = f"  {method.uncaptioned:5.1f}" if method.uncaptioned is not None else ""
            lines.append(f"{name:<14}{cells}{more}".rstrip())
            if method.above is not None:
                against = "slerp" if case == "composed" else "fixed_alpha"
                steps = ", ".join(
                    f"{m} {method.above[m].value:+.2f} "
                    f"[{method.above[m].low:+.2f}, {method.above[m].high:+.2f}]"
                    for m in SHOWN
                )
                lines.append(f"  above {against}: {steps}")
    if fused.matching is not None:
        lines += ["", *pairs.as_lines(fused.matching)]
    lines += ["", f"In percent over {len(SEEDS)} draws, with 95% intervals from resampled photos."]
    return "\n".join(lines)


def _cell(found: Measured) -> str:
    return f"{found.value:5.1f} [{found.low:.1f}, {found.high:.1f}]"


if __name__ == "__main__":
    from benchmarks.commands import alone

    alone("fusion")
