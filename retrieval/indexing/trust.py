"""Whether an index may be used: one that this machine made, or that the user trusts.

An index from a stranger may name folders that it has no business in, and a model that would be
fetched for it. What lies in the index's own surroundings needs no trust, nor do the models that
open_clip knows. Folders and models that the user names in a command are trusted for every index;
what the user trusts with `--trust` is trusted for that index alone. Each has a file in the user's
data folder.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from indexes.atomic_write import atomic_write
from indexes.index import Index
from indexes.locate import FOLDER_NAME
from indexes.paths import UrlPath
from retrieval.encoders.base import Encoder
from retrieval.encoders.registry import canonical_name
from retrieval.errors import ModelError, UntrustedIndexError
from retrieval.photos.files import printable


@dataclass(frozen=True)
class Foreign:
    """What an index uses beyond its surroundings: places on disk, and models that are not known."""

    places: tuple[Path, ...]
    models: tuple[str, ...]


def check_trust(index: Index, trust: bool = False, model_given: bool = False) -> None:
    """Raise UntrustedIndexError if an index uses what the user has not trusted.

    trust: trust it from now on. What cannot be recorded is trusted this time only. model_given:
    the model that the index names is not loaded.
    """
    # Nothing on this machine is at a URL.
    folders = [root.path for root in index.roots() if not isinstance(root.path, UrlPath)]
    places = [*folders, *index.caption_files()]
    foreign = _foreign(index.folder, places, "mini" if model_given else index.model.name)
    real = str(index.folder.resolve())
    if trust:
        _record(foreign, real)
        return
    unknown = [
        f"photos or captions in {printable(place)}"
        for place in foreign.places
        if not any(_is_recorded("place", str(p), real) for p in (place, *place.parents))
    ]
    unknown += [
        f"the model {printable(model[:100])}"
        for model in foreign.models
        if not _is_recorded("model", model, real)
    ]
    if unknown:
        raise UntrustedIndexError(
            f"The index {printable(index.folder)} uses {' and '.join(unknown[:3])}, and is not "
            "known to have been made on this machine. If you made it, or trust whoever did, run "
            "the same command again with --trust, once."
        )


def trust_command(folder: Path, places: Iterable[Path], model: str | Encoder | None) -> bool:
    """Trust what the user names for the index in `folder`: folders, lists of captions and a model.

    Returns False if that cannot be recorded.
    """
    name = "mini"
    if isinstance(model, str) and model != "auto":
        try:
            name = canonical_name(model)
        except ModelError:
            pass  # reported by whoever loads it
    elif model is not None and not isinstance(model, str):
        name = model.name
    return _record(_foreign(folder, places, name))


def _foreign(folder: Path, places: Iterable[Path], model: str) -> Foreign:
    """Which of these places lie outside the surroundings of an index, and the model if unknown."""
    real = folder.resolve()
    surroundings = real.parent if real.name == FOLDER_NAME else real
    outside = (place.resolve() for place in places)
    return Foreign(
        tuple(place for place in outside if not place.is_relative_to(surroundings)),
        () if is_known_model(model) else (model,),
    )


def is_known_model(model: str) -> bool:
    """Whether a model is built in, or one that open_clip fetches from a place it knows."""
    scheme, _, weights = model.partition(":")
    if model == "mini":
        return True
    named = scheme not in ("hf-hub", "local-dir", "trained") and weights and "/" not in scheme
    return bool(named) and not os.path.exists(os.path.expanduser(weights))  # noqa: PTH110, PTH111


def _record(foreign: Foreign, index: str = "") -> bool:
    """Trust places and models from now on; False if that cannot be written.

    index: the one that they are trusted for; '' for all.
    """
    named = [("place", str(place)) for place in foreign.places]
    named += [("model", model) for model in foreign.models]
    try:
        for kind, name in named:
            file = _file(kind, name, index)
            file.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(file) as temporary:  # for people; only its name is looked at
                content = {"kind": kind, "name": name, "index": index}
                temporary.write_text(json.dumps(content), "ascii")
    except OSError:
        return False
    return True


def _is_recorded(kind: str, name: str, index: str) -> bool:
    return _file(kind, name, index).is_file() or _file(kind, name, "").is_file()


def _file(kind: str, name: str, index: str) -> Path:
    import platformdirs
    from blake3 import blake3

    digest = blake3(b"\0".join(map(os.fsencode, (kind, name, index)))).hexdigest()[:32]
    return platformdirs.user_data_path("crossmodal-retrieval") / "trusted" / f"{digest}.json"
