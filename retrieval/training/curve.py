"""The curve of a training run as a PNG: loss, and recall on the held-out photos, by epoch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from retrieval.training.trainer import Epoch


def draw(epochs: Sequence[Epoch], file: Path) -> bool:
    """Write the chart; False where matplotlib, an extra, is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(10, 4), layout="constrained", dpi=120)
    left, right = figure.subplots(1, 2)
    learned = [epoch for epoch in epochs if epoch.epoch >= 0]
    left.plot([e.epoch + 1 for e in learned], [e.loss for e in learned], "o-", color="#4477aa")
    left.set_title("loss")
    for place, (k, colour) in enumerate(((1, "#ee6677"), (5, "#228833"), (10, "#4477aa"))):
        x = [e.epoch + 1 for e in epochs]
        right.plot(x, [e.text_to_photo[place] for e in epochs], "o-", color=colour, label=f"R@{k}")
        right.plot(x, [e.photo_to_text[place] for e in epochs], "--", color=colour, alpha=0.6)
    right.set_title("held-out recall, %: text to photo (dashed: photo to text)")
    right.set_ylim(0, 100)
    right.legend(frameon=False)
    for panel in (left, right):
        panel.set_xlabel("epoch")
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(alpha=0.3)
    figure.savefig(file)
    return True
