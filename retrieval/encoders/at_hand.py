"""Models without a download: the encoder if its weights are on this machine, else what its name
tells.

For embeddings that were computed elsewhere: an index of them can be made before the model is here.
"""

from retrieval.encoders.base import Encoder, Log
from retrieval.encoders.engine import Compute
from retrieval.encoders.hub import hub_access
from retrieval.encoders.registry import PRESETS, canonical_name, load_encoder, model_folder
from retrieval.errors import ModelError, WeightsMissingError


def encoder_at_hand(
    name: str, log: Log = lambda _: None, compute: Compute = Compute()
) -> Encoder | None:
    """The encoder of this name, None if its weights are not on this machine.

    Raises ModelError if there is no such model, or if its files are damaged.
    """
    if name == "auto":
        raise ModelError(
            "'auto' does not tell which model made the embeddings. Name it as ARCH:WEIGHTS."
        )
    try:
        with hub_access(offline=True):
            return load_encoder(name, log, compute)
    except WeightsMissingError:
        return None


def named_dimension(name: str) -> int | None:
    """The length of the embeddings of an open_clip model, by its architecture; None if unknown."""
    if name == "mini" or model_folder(name) is not None:
        return None
    import open_clip

    architecture = canonical_name(PRESETS.get(name, name)).partition(":")[0]
    found = (open_clip.get_model_config(architecture) or {}).get("embed_dim")
    return found if isinstance(found, int) else None
