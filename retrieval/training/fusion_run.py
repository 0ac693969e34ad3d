"""`retrieval train-fusion`: from a captioned photo set and a model to the fusion of that model, and
the matching that goes with it.

Photos and captions are embedded once and kept, as for benchmarks; what is learned is in `fusion`
and `matching`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from indexes.arrays import Floats
from indexes.errors import StorageError
from retrieval.datasets.captioned import CaptionedSet
from retrieval.datasets.embedding_cache import EmbeddingCache, drop_unreadable, open_embedding_cache
from retrieval.encoders.registry import load_encoder
from retrieval.errors import DataSetError
from retrieval.evaluation.composed_queries import composed_queries
from retrieval.evaluation.fusion_cases import Asked, Captioned, Material
from retrieval.fusion.attention import Fusion
from retrieval.fusion.store import save_fusion, user_fusion_file
from retrieval.ranking import matching
from retrieval.ranking.query_bank import bank_embeddings
from retrieval.training.mini import train_and_held_out

if TYPE_CHECKING:
    from retrieval.training.fusion import Step

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class TrainedFusion:
    """What came of a run. before, after: R@1 in percent on the held-out photos over all cases of
    captions, by the mean and by what was trained; reranked: the mean of R@1 and R@5 there, before
    and after re-ranking by the matching."""

    file: Path
    fusion: Fusion
    before: float
    after: float
    curve: Path | None
    reranked: tuple[float, float]


def train_fusion(
    dataset: Path,
    model: str = "auto",
    out: Path | None = None,
    split: str | None = None,
    held_out: str | None = None,
    images: Path | None = None,
    skip_bad: bool = False,
    seed: int = 0,
    log: Callable[[str], None] = lambda _: None,
    progress: Progress = lambda *_: None,
) -> TrainedFusion:
    """Train the fusion of `model`, and its matching, on captioned photos of two captions or more.

    out: the file, by default where searches with this model look for it. The other arguments are
    as for `retrieval.training.mini.train`. Raises RetrievalError.
    """
    learn, held = train_and_held_out(dataset, split, held_out, images, skip_bad, seed, log)
    encoder = load_encoder(model, log)
    file = out or user_fusion_file(encoder.fingerprint)
    log(
        f"{learn.name}: learning from {len(learn.photos):,} photos, measured on "
        f"{len(held.photos):,} others, model {encoder.name}"
    )
    from retrieval.training import fusion as training
    from retrieval.training.matching import MatchingRecipe, train_matching

    with open_embedding_cache(encoder, progress) as cache:
        learned = material(learn, cache, seed, 2, skip_bad, log)
        held_too = material(held, cache, seed, 1, skip_bad, log)

    def after(step: training.Step) -> None:
        if step.epoch < 0:
            log(f"The mean, as a {step.role}: {step.recall:.1f}")
        elif step.epoch % 5 == 4:
            log(f"Epoch {step.epoch + 1}: loss {step.loss:.3f}, recall {step.recall:.1f}")

    found, history = training.train_fusion(
        encoder.fingerprint, learned, held_too, seed=seed, after=after
    )
    try:
        saved = save_fusion(found, file)
        curve = file.with_suffix(".png")
        drawn = draw(history, curve)
        log("Matching: telling true pairs of photo and text from near misses")
        parts = learned.captioned, held_too.captioned
        match, recall = train_matching(
            encoder.fingerprint,
            saved,
            bank_embeddings(encoder),
            *parts,
            seed=seed,
            after=lambda epoch, _: progress("epochs", epoch + 1, MatchingRecipe.epochs),
        )
        matching.save_matching(match, matching.matching_file(file))
    except OSError as error:
        raise StorageError(
            f"{file} cannot be written ({error.strerror}). Name another place with --out."
        ) from error
    photo = [step.recall for step in history if step.role == "photo"]
    reranked = recall[0.0], max(recall.values())
    return TrainedFusion(file, saved, photo[0], max(photo), curve if drawn else None, reranked)


def material(
    captioned: CaptionedSet,
    cache: EmbeddingCache,
    seed: int,
    draws: int,
    skip_bad: bool,
    log: Callable[[str], None],
) -> Material:
    """A captioned set as what a fusion learns from; draws: composed queries a photo."""
    rows, parts, used = captioned_of(captioned, cache, skip_bad, log)
    return Material(parts, rows, asked_of(used, cache, seed, draws))


def captioned_of(
    captioned: CaptionedSet, cache: EmbeddingCache, skip_bad: bool, log: Callable[[str], None]
) -> tuple[Floats, Captioned, CaptionedSet]:
    """The embeddings of all photos, of those with captions to store and to ask, and the photos."""
    photos, wrong = cache.photos(captioned.photos)
    used = drop_unreadable(captioned, wrong, skip_bad, log)
    texts = cache.texts(used.captions)
    return photos.rows, Captioned.of(photos.rows, texts.rows, used.owners), used


def asked_of(captioned: CaptionedSet, cache: EmbeddingCache, seed: int, draws: int) -> Asked:
    """Composed queries of a captioned set, their texts embedded."""
    asked = composed_queries([photo.captions for photo in captioned.photos], seed, draws)
    if not asked.texts:
        raise DataSetError(
            f"{captioned.name} gives no composed query: the captions of its photos share no words."
        )
    return Asked(asked.examples, asked.targets, cache.texts(asked.texts).rows)


def draw(log: Sequence[Step], file: Path) -> bool:
    """The curve as a PNG; False where matplotlib, an extra, is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(10, 4), layout="constrained", dpi=120)
    for panel, role, what in zip(
        figure.subplots(1, 2),
        ("photo", "query"),
        ("photos with captions: held-out R@1", "composed queries: held-out (R@1 + R@10) / 2"),
        strict=True,
    ):
        steps = [step for step in log if step.role == role]
        panel.plot([s.epoch + 1 for s in steps], [s.recall for s in steps], "-", color="#4477aa")
        panel.axhline(steps[0].recall, color="#777777", linestyle=":", label="the mean")
        panel.set_title(what + ", %")
        panel.set_xlabel("epoch")
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(alpha=0.3)
        panel.legend(frameon=False)
    figure.savefig(file)
    return True
