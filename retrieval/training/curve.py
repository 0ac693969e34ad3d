"""The curves of training runs as PNG files. Without matplotlib, an extra, nothing is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrieval.training.history import Epoch

if TYPE_CHECKING:
    from retrieval.training.fusion import FusionEpoch


def draw_model_curve(epochs: Sequence[Epoch], file: Path) -> bool:
    """Loss and held-out recall by epoch; False without matplotlib. Raises OSError."""
    drawing = _two_panels()
    if drawing is None:
        return False
    figure, (left, right) = drawing
    trained = [epoch for epoch in epochs if epoch.epoch >= 0]
    left.plot([e.epoch + 1 for e in trained], [e.loss for e in trained], "o-", color="#4477aa")
    left.set_title("loss")
    for place, (k, colour) in enumerate(((1, "#ee6677"), (5, "#228833"), (10, "#4477aa"))):
        x = [e.epoch + 1 for e in epochs]
        right.plot(x, [e.text_to_photo[place] for e in epochs], "o-", color=colour, label=f"R@{k}")
        right.plot(x, [e.photo_to_text[place] for e in epochs], "--", color=colour, alpha=0.6)
    right.set_title("held-out recall, %: text to photo (dashed: photo to text)")
    right.set_ylim(0, 100)
    right.legend(frameon=False)
    figure.savefig(file)
    return True


def draw_fusion_curve(epochs: Sequence[FusionEpoch], file: Path) -> bool:
    """Held-out recall of both networks by epoch; False without matplotlib. Raises OSError."""
    drawing = _two_panels()
    if drawing is None:
        return False
    figure, panels = drawing
    for panel, role, title in zip(
        panels,
        ("photo", "query"),
        ("photos with captions: held-out R@1", "composed queries: held-out (R@1 + R@10) / 2"),
        strict=True,
    ):
        own = [epoch for epoch in epochs if epoch.role == role]
        panel.plot([e.epoch + 1 for e in own], [e.recall for e in own], "-", color="#4477aa")
        panel.axhline(own[0].recall, color="#777777", linestyle=":", label="the plain mean")
        panel.set_title(title + ", %")
        panel.legend(frameon=False)
    figure.savefig(file)
    return True


def _two_panels() -> tuple[Any, Any] | None:
    """An empty figure and its two panels; None without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    figure = Figure(figsize=(10, 4), layout="constrained", dpi=120)
    panels = figure.subplots(1, 2)
    for panel in panels:
        panel.set_xlabel("epoch")
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(alpha=0.3)
    return figure, panels
