"""`retrieval train-fusion`: from captioned photos and a model to the model's fusion and matching.

Photos and captions are embedded once and cached, as for benchmarks. The training itself is in
`fusion` and `matching`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from indexes.errors import StorageError
from retrieval.datasets.embedding_cache import open_embedding_cache
from retrieval.encoders.registry import load_encoder
from retrieval.evaluation.fusion_data import embed_fusion_data
from retrieval.fusion.attention import Fusion
from retrieval.fusion.store import save_fusion, user_fusion_file
from retrieval.ranking import matching
from retrieval.ranking.query_bank import bank_embeddings
from retrieval.training.curve import draw_fusion_curve
from retrieval.training.held_out import require_enough, training_and_held_out
from retrieval.training.options import FusionTrainOptions, Log, Progress

if TYPE_CHECKING:
    from retrieval.training.fusion import FusionEpoch


@dataclass(frozen=True)
class TrainedFusion:
    """The result of `train_fusion`. before, after: R@1 in percent on the held-out photos over all
    cases of captions, by the plain mean and by the fusion; curve: a PNG file, None without
    matplotlib; reranked: the mean of R@1 and R@5 before and after re-ranking by the matching."""

    file: Path
    fusion: Fusion
    before: float
    after: float
    curve: Path | None
    reranked: tuple[float, float]


def train_fusion(
    options: FusionTrainOptions, log: Log = lambda _: None, progress: Progress = lambda *_: None
) -> TrainedFusion:
    """Train the fusion of a model, and its matching, on photos with two captions or more.

    Raises RetrievalError.
    """
    training, held_out = training_and_held_out(options, log)
    encoder = load_encoder(options.model, log)
    file = options.out or user_fusion_file(encoder.fingerprint)
    log(
        f"{training.name}: training on {len(training.photos):,} photos, measuring on "
        f"{len(held_out.photos):,} others, model {encoder.name}"
    )
    from retrieval.training.fusion import fit_fusion
    from retrieval.training.matching import MatchingData, MatchingRecipe, fit_matching

    with open_embedding_cache(encoder, progress) as cache:
        training_data, held_out_data = (
            embed_fusion_data(captioned, cache, options.seed, draws, options.skip_bad, log)
            for captioned, draws in ((training, 2), (held_out, 1))
        )
    require_enough(training.name, len(training_data.images))

    def on_epoch(epoch: FusionEpoch) -> None:
        if epoch.epoch < 0:
            log(f"Plain mean, {epoch.role}: recall {epoch.recall:.1f}")
        elif epoch.epoch % 5 == 4:
            log(f"Epoch {epoch.epoch + 1}: loss {epoch.loss:.3f}, recall {epoch.recall:.1f}")

    fusion, epochs = fit_fusion(
        encoder.fingerprint, training_data, held_out_data, seed=options.seed, on_epoch=on_epoch
    )
    try:
        fusion = save_fusion(fusion, file)
        curve = file.with_suffix(".png")
        drawn = draw_fusion_curve(epochs, curve)
        log("Training the matching: true pairs of photo and text against near misses")
        found, recall = fit_matching(
            MatchingData(
                encoder.fingerprint,
                fusion,
                bank_embeddings(encoder),
                training_data.captioned,
                held_out_data.captioned,
            ),
            seed=options.seed,
            on_epoch=lambda epoch, _: progress("epochs", epoch + 1, MatchingRecipe.epochs),
        )
        matching.save_matching(found, matching.matching_file(file))
    except OSError as error:
        raise StorageError(
            f"{file} cannot be written ({error.strerror}). Name another file with --out."
        ) from error
    photo = [epoch.recall for epoch in epochs if epoch.role == "photo"]
    reranked = recall[0.0], max(recall.values())
    return TrainedFusion(file, fusion, photo[0], max(photo), curve if drawn else None, reranked)
