"""Whether an index may be used: one that this machine made, or that the user trusts.

An index from a stranger may name folders that it has no business in, and a model that would be
fetched for it. What lies in the index's own surroundings needs no trust, nor do the models that
open_clip knows. What the user has trusted is recorded for each index in the user's data folder, as
folders and models: an index that later asks for more is asked about again.
"""

import json
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from indexes.atomic_write import atomic_write
from indexes.index import Index
from indexes.locate import FOLDER_NAME
from retrieval.encoders.base import Encoder
from retrieval.encoders.registry import canonical_name
from retrieval.errors import ModelError, UntrustedIndexError
from retrieval.photos.files import printable

_MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class Trusted:
    """What an index may use beyond its surroundings: places on disk, and names of models."""

    places: frozenset[str] = frozenset()
    models: frozenset[str] = frozenset()

    def __or__(self, other: "Trusted") -> "Trusted":
        return Trusted(self.places | other.places, self.models | other.models)

    def covers(self, place: str) -> bool:
        """Whether a place is trusted, or is in a folder that is."""
        return any(Path(place).is_relative_to(folder) for folder in self.places)


def check_trust(index: Index, trust: bool = False) -> None:
    """Raise UntrustedIndexError if an index uses what the user has not trusted.

    trust: trust it from now on. What cannot be recorded is trusted this time only.
    """
    needed = _needs(
        index.folder,
        [*(root.path for root in index.roots()), *index.caption_files()],
        index.model.name,
    )
    if needed == Trusted():
        return
    if trust:
        remember(index.folder, needed)
        return
    known = _read(index.folder)
    places = sorted(place for place in needed.places if not known.covers(place))
    models = sorted(needed.models - known.models)
    if places or models:
        what = [f"photos or captions in {printable(place)}" for place in places[:3]]
        what += [f"the model {printable(model[:100])}" for model in models]
        raise UntrustedIndexError(
            f"The index {printable(index.folder)} was not made on this machine and uses "
            f"{' and '.join(what)}. If you trust whoever made it, run the same command again with "
            "--trust, once; else delete it."
        )


def trusted_by_command(
    folder: Path, places: Iterable[Path], model: str | Encoder | None
) -> Trusted:
    """What the user trusts by naming it: folders, files of captions and a model."""
    name = "mini"
    if isinstance(model, str) and model != "auto":
        try:
            name = canonical_name(model)
        except ModelError:
            pass  # reported by whoever loads it
    elif model is not None and not isinstance(model, str):
        name = model.name
    return _needs(folder, places, name)


def remember(folder: Path, trusted: Trusted) -> bool:
    """Record what an index may use, with what is recorded; False if that cannot be written."""
    known = _read(folder)
    whole = known | trusted
    if whole == known:
        return True
    file = _file(folder)
    content = {"places": sorted(whole.places), "models": sorted(whole.models)}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as temporary:
            temporary.write_text(json.dumps(content), "ascii")  # also names that are not UTF-8
    except OSError:
        return False
    return True


def _needs(folder: Path, places: Iterable[Path], model: str) -> Trusted:
    """What has to be trusted of these places and this model."""
    real = folder.resolve()
    surroundings = real.parent if real.name == FOLDER_NAME else real
    outside = (path.resolve() for path in places)
    return Trusted(
        frozenset(str(path) for path in outside if not path.is_relative_to(surroundings)),
        frozenset() if _is_known(model) else frozenset([model]),
    )


def _is_known(model: str) -> bool:
    """Whether a model is built in, or one that open_clip fetches from a place it knows."""
    scheme, _, weights = model.partition(":")
    if model == "mini":
        return True
    named = scheme not in ("hf-hub", "local-dir", "trained") and weights and "/" not in scheme
    return bool(named) and not os.path.exists(os.path.expanduser(weights))  # noqa: PTH110, PTH111


def _file(folder: Path) -> Path:
    """The record of the index in `folder`."""
    import platformdirs
    from blake3 import blake3

    name = blake3(os.fsencode(folder.resolve())).hexdigest()[:32]
    return platformdirs.user_data_path("crossmodal-retrieval") / "trusted" / f"{name}.json"


def _read(folder: Path) -> Trusted:
    """What is recorded; nothing if that cannot be read."""
    file = _file(folder)
    try:
        state = file.stat()
        if not stat.S_ISREG(state.st_mode) or state.st_size > _MOST_BYTES:
            return Trusted()
        content = json.loads(file.read_text("ascii"))
        lists = [frozenset(map(str, content[name])) for name in ("places", "models")]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return Trusted()
    return Trusted(*lists)
