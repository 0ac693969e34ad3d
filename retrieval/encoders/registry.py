"""Names of models, and the encoder behind a name.

`auto` is only a wish: what an index records is the model that it came down to.
"""

from pathlib import Path

from indexes.catalogue import IndexModel
from retrieval.encoders.base import Encoder, Log
from retrieval.encoders.engine import Compute
from retrieval.errors import ModelError

# Openly licensed weights only; recalls and speeds are in the README.
PRESETS = {
    "base": "ViT-B-32-256:datacomp_s34b_b86k",
    "better": "ViT-B-16-SigLIP:webli",
    "best": "ViT-SO400M-14-SigLIP-384:webli",
    "multilingual": "ViT-B-16-SigLIP2-256:webli",
}

_BASE_REPOSITORY = (
    "laion/CLIP-ViT-B-32-256x256-DataComp-s34B-b86K"  # as open_clip's registry has it
)

_TRAINED = "trained:"


def load_encoder(
    name: str = "auto", log: Log = lambda _: None, compute: Compute = Compute()
) -> Encoder:
    """The encoder for a preset, an open_clip model, a hub reference or a local checkpoint.

    log: receives a sentence on what `auto` came down to, and on an engine or device that is not to
    be had.
    Raises ModelError, with what to do, where there is no such model or it cannot be had.
    """
    if name == "auto":
        return _auto(log, compute)
    folder = None if name == "mini" else model_folder(name)
    if name == "mini" or folder is not None:
        from retrieval.encoders.mini.encoder import WEIGHTS, MiniEncoder

        return MiniEncoder(WEIGHTS if folder is None else folder, compute, log)
    from retrieval.encoders.openclip import OpenClipEncoder

    return OpenClipEncoder(PRESETS.get(name, name), compute, log)


def model_folder(name: str) -> Path | None:
    """The folder that `retrieval train` made, if `name` is one; raises ModelError if it is gone.

    An index records it as `trained:` and its absolute path.
    """
    folder = Path(name.removeprefix(_TRAINED)).expanduser()
    if all((folder / part).is_file() for part in ("config.json", "model.safetensors")):
        return folder.resolve()
    if name.startswith(_TRAINED):
        raise ModelError(
            f"The model folder {folder} is not there any more. Bring it back, or encode the photos "
            "with another model: `retrieval index --rebuild --model mini`."
        )
    return None


def check_model(model: IndexModel, wanted: str) -> None:
    """Raise ModelError if `wanted` is not the model that an index was made by."""
    if wanted != "auto" and canonical(wanted) != model.name:
        raise ModelError(
            f"This index was made by model {model.name}, not {wanted}. Leave --model out to go on "
            f"with {model.name}; encode all photos again with "
            f"`retrieval index --rebuild --model {wanted}`; or keep a second index with --index."
        )


def canonical(name: str) -> str:
    """The name that an index records for a preset or a model."""
    if name == "mini":
        return name
    if (folder := model_folder(name)) is not None:
        return f"{_TRAINED}{folder}"
    from retrieval.encoders.openclip import split_name

    return split_name(PRESETS.get(name, name))[0]


def load_encoder_of(
    model: IndexModel, log: Log = lambda _: None, compute: Compute = Compute()
) -> Encoder:
    """The encoder that made an index; raises ModelError if its weights are no longer the same."""
    encoder = load_encoder(model.name, log, compute)
    check_weights(model, encoder)
    return encoder


def check_weights(model: IndexModel, encoder: Encoder) -> None:
    """Raise ModelError if an index was not made by the weights of this encoder."""
    if (encoder.fingerprint, encoder.dim) != (model.fingerprint, model.dim):
        raise ModelError(
            f"This index was made by other weights (model {model.name}, {model.fingerprint}) than "
            f"those at hand (model {encoder.name}, {encoder.fingerprint}), so its photos cannot be "
            "compared with the query. Run `retrieval index --rebuild` to encode them again."
        )


def _auto(log: Log, compute: Compute) -> Encoder:
    """`base` if its weights are here or can be downloaded, else `mini`."""
    from retrieval.encoders.openclip import hub_reachable, in_cache

    if in_cache(_BASE_REPOSITORY) or hub_reachable():
        try:
            return load_encoder("base", log, compute)
        except ModelError:
            pass  # reachable, but it did not give the weights
    log(
        "The weights of model base are neither on this machine nor within reach: using the "
        "built-in model mini. (--model chooses another.)"
    )
    return load_encoder("mini", log, compute)
