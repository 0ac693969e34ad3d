"""How other programs embed photos, in their essence, with the same weights as ours.

clip-retrieval: batches decoded ahead in full size, a torch module in eager mode. rclip: the model
exported to ONNX, sixteen threads that decode ahead. Neither lets the decoder scale down, and both
leave all the rest out that an index needs: hashes, metadata, a catalogue.
"""

import warnings
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from indexes.arrays import Array
from indexes.lazy_imports import load_torch
from retrieval.encoders.base import Encoder
from retrieval.photos.look_ahead import look_ahead


@dataclass(frozen=True)
class Peer:
    """A way to embed photos. encode: prepared photos, stacked, to rows."""

    name: str
    encode: Callable[[Array], Array]
    batch: int
    threads: int


def torch_eager(encoder: Encoder) -> Peer:
    """As clip-retrieval does it, where the encoder computes: a batch at a time, four decoders."""
    torch = load_torch()
    module, device = encoder.torch_module().to(encoder.device), encoder.device

    def encode(photos: Array) -> Array:
        with torch.inference_mode():
            rows: Array = module(torch.from_numpy(photos).to(device)).cpu().numpy()
        return rows

    return Peer("torch eager, as clip-retrieval", encode, 32, 4)


def onnx_runtime(encoder: Encoder, folder: Path) -> Peer | None:
    """As rclip does it; None where ONNX Runtime is not installed. The model is put in `folder`."""
    if find_spec("onnxruntime") is None or find_spec("onnx") is None:
        return None
    import onnxruntime

    torch = load_torch()
    file = folder / "model.onnx"
    example = encoder.prepare(Image.effect_noise((600, 400), 90).convert("RGB"))
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # its one operator has no name in ONNX
    try:
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                encoder.torch_module(),
                (torch.from_numpy(np.stack([example] * 2)),),
                file,
                input_names=["photos"],
                dynamic_axes={"photos": {0: "n"}},
                dynamo=False,  # the newer exporter takes minutes
            )
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])

    def encode(photos: Array) -> Array:
        rows: Array = session.run(None, {"photos": photos})[0]
        return rows

    return Peer("ONNX Runtime, as rclip", encode, 8, 16)


def embed(peer: Peer, encoder: Encoder, paths: Sequence[Path]) -> Array:
    """All photos embedded by a peer, decoded ahead: float32 [n, dim]."""

    def read(path: Path) -> Array:
        with Image.open(path) as photo:
            return encoder.prepare(photo.convert("RGB"))

    rows: list[Array] = []
    batch: list[Array] = []
    with closing(look_ahead(read, paths, peer.threads, 2 * peer.batch)) as photos:
        for photo in photos:
            batch.append(photo)
            if len(batch) == peer.batch:
                rows.append(peer.encode(np.stack(batch)))
                batch = []
    if batch:
        rows.append(peer.encode(np.stack(batch)))
    return np.concatenate(rows)
