"""The encoder of an index, loaded when the first photo or caption needs it.

A run that finds nothing new loads no model. Which models there are is known to
`retrieval.encoders.registry`.
"""

import threading

from indexes.catalogue import IndexModel
from retrieval.encoders.base import Encoder, Log
from retrieval.encoders.engine import Compute
from retrieval.encoders.registry import check_model, check_weights, load_encoder_of


class EncoderLoader:
    """Call it for the encoder, from any thread. model: what the index records of it."""

    def __init__(
        self, model: IndexModel, requested: str | Encoder | None, compute: Compute, log: Log
    ) -> None:
        """requested: the name of a model or a loaded encoder; None for the model of the index.

        Raises ModelError if that is not the model that made the index.
        """
        self.model = model
        self._compute, self._log = compute, log
        self._lock = threading.Lock()
        self._encoder: Encoder | None = None
        if isinstance(requested, str):
            check_model(model, requested)
        elif requested is not None:
            check_weights(model, requested)
            self._encoder = requested

    @property
    def loaded(self) -> Encoder | None:
        """The encoder if it was needed so far."""
        return self._encoder

    def __call__(self) -> Encoder:
        with self._lock:
            if self._encoder is None:
                self._encoder = load_encoder_of(self.model, self._log, self._compute)
            return self._encoder
