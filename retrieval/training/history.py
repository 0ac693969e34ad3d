"""The history of a training run: loss and held-out recall of every epoch, stored as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field


@dataclass
class Epoch:
    """One epoch: mean loss, recall@1, @5 and @10 in percent in both directions, seconds."""

    epoch: int
    loss: float
    text_to_photo: list[float]
    photo_to_text: list[float]
    seconds: float

    @property
    def score(self) -> float:
        """The quantity that early stopping maximises."""
        return sum(self.text_to_photo) + sum(self.photo_to_text) / 2


@dataclass
class History:
    """All epochs so far; the first, numbered -1, is the model before training."""

    epochs: list[Epoch] = field(default_factory=list)

    @property
    def best(self) -> Epoch:
        return max(self.epochs, key=lambda epoch: epoch.score)

    def to_json(self) -> str:
        return json.dumps([asdict(epoch) for epoch in self.epochs])

    @classmethod
    def from_json(cls, text: str) -> History:
        return cls([Epoch(**epoch) for epoch in json.loads(text)])
