"""Names of models, and the encoder behind each name.

An index never records `auto`: it records the model that was chosen.
"""

import os
from pathlib import Path

from indexes.catalogue import IndexModel
from retrieval.encoders.base import Encoder, Log
from retrieval.encoders.engine import Compute
from retrieval.errors import ModelError

# Openly licensed weights only. docs/benchmarks.md has their recall and speed.
PRESETS = {
    "base": "ViT-B-32-256:datacomp_s34b_b86k",
    "better": "ViT-B-16-SigLIP:webli",
    "best": "ViT-SO400M-14-SigLIP-384:webli",
    "multilingual": "ViT-B-16-SigLIP2-256:webli",
}

# The repository of `base`, as open_clip's registry names it.
_BASE_REPOSITORY = "laion/CLIP-ViT-B-32-256x256-DataComp-s34B-b86K"

_TRAINED = "trained:"

UNCHECKED = "unchecked"
"""The fingerprint of an index of imported embeddings whose model was not at hand."""


def load_encoder(
    name: str = "auto", log: Log = lambda _: None, compute: Compute = Compute()
) -> Encoder:
    """The encoder for a preset, an open_clip model, a hub reference or a local checkpoint.

    log: receives a sentence about the model that `auto` chose, and about an engine or device that
    is not available.
    Raises ModelError, which says what to do, if there is no such model or it cannot be loaded.
    """
    if name == "auto":
        return _load_auto(log, compute)
    folder = None if name == "mini" else model_folder(name)
    if name == "mini" or folder is not None:
        from retrieval.encoders.mini.encoder import MiniEncoder
        from retrieval.encoders.mini.model_folder import WEIGHTS

        return MiniEncoder(WEIGHTS if folder is None else folder, compute, log)
    from retrieval.encoders.openclip import OpenClipEncoder

    return OpenClipEncoder(PRESETS.get(name, name), compute, log)


def model_folder(name: str) -> Path | None:
    """The folder written by `retrieval train` that `name` refers to; None if it is another name.

    An index records such a model as `trained:` and its absolute path. Raises ModelError if that
    folder is missing.
    """
    # os.path: a name that no file can have is no error.
    folder = Path(os.path.expanduser(name.removeprefix(_TRAINED)))  # noqa: PTH111
    if all(os.path.isfile(folder / file) for file in ("config.json", "model.safetensors")):  # noqa: PTH113
        return folder.resolve()
    if name.startswith(_TRAINED):
        raise ModelError(
            f"The model folder {folder} is missing. Restore it, or encode the photos with another "
            "model: `retrieval index --rebuild --model mini`."
        )
    return None


def check_model(model: IndexModel, requested: str) -> None:
    """Raise ModelError if an index was built with another model than the requested one."""
    if requested != "auto" and canonical_name(requested) != model.name:
        raise ModelError(
            f"This index was built with model {model.name}, not {requested}. Leave out --model to "
            f"continue with {model.name}; encode all photos again with "
            f"`retrieval index --rebuild --model {requested}`; or keep a second index with --index."
        )


def canonical_name(name: str) -> str:
    """The name that an index records for a preset or a model."""
    if name == "mini":
        return name
    if (folder := model_folder(name)) is not None:
        return f"{_TRAINED}{folder}"
    from retrieval.encoders.openclip_weights import split_name

    return split_name(PRESETS.get(name, name))[0]


def load_encoder_of(
    model: IndexModel, log: Log = lambda _: None, compute: Compute = Compute()
) -> Encoder:
    """The encoder that an index was built with. Raises ModelError if its weights have changed."""
    encoder = load_encoder(model.name, log, compute)
    check_weights(model, encoder)
    return encoder


def check_weights(model: IndexModel, encoder: Encoder) -> None:
    """Raise ModelError if an index was not built with the weights of this encoder.

    Of weights that were not at hand when embeddings were imported, only the name and the dimension
    are known (`UNCHECKED`).
    """
    if model.fingerprint == UNCHECKED:
        fits = (encoder.name, encoder.dim) == (model.name, model.dim)
    else:
        fits = (encoder.fingerprint, encoder.dim) == (model.fingerprint, model.dim)
    if not fits:
        raise ModelError(
            f"This index was built with other weights (model {model.name}, {model.fingerprint}, "
            f"{model.dim} dimensions) than those loaded (model {encoder.name}, "
            f"{encoder.fingerprint}, {encoder.dim} dimensions), so its photos cannot be compared "
            "with the query. Run `retrieval index --rebuild` to encode them again."
        )


def _load_auto(log: Log, compute: Compute) -> Encoder:
    """`base` if its weights are cached or can be downloaded, else `mini`."""
    from retrieval.encoders.hub import is_cached, is_hub_reachable

    if is_cached(_BASE_REPOSITORY) or is_hub_reachable():
        try:
            return load_encoder("base", log, compute)
        except ModelError:
            pass  # the hub answers but does not deliver the weights
    log(
        "The weights of model base are neither on this machine nor available for download: using "
        "the built-in model mini. (--model chooses another.)"
    )
    return load_encoder("mini", log, compute)
