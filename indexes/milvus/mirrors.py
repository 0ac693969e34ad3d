"""The mirrors of indexes on many machines, in the user's folder of caches: one for each place.

A mirror's folder stands for its index wherever a folder is expected. Which place it is of, it says
itself; a folder elsewhere that says so is not believed.
"""

import json
import os
from pathlib import Path

from indexes.atomic_write import atomic_write
from indexes.errors import ClusterError, IndexDamagedError
from indexes.milvus.place import ClusterPlace, parse
from indexes.regular_files import read_regular

_FILE = "cluster.json"
_MOST_BYTES = 10_000


def mirror_folder(place: ClusterPlace, lake: str) -> Path:
    """The folder of the mirror of a place with its lake, which need not be there."""
    from blake3 import blake3

    digest = blake3(f"{place.address}/{place.name}\0{lake}".encode()).hexdigest()[:24]
    return _clusters() / f"{place.name}-{digest}"


def write_mirror(place: ClusterPlace, lake: str) -> Path:
    """The folder of the mirror, which says whose it is; raises OSError."""
    folder = mirror_folder(place, lake)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with atomic_write(folder / _FILE) as temporary:
        temporary.write_text(
            json.dumps({"place": str(place), "lake": lake, "tls": place.tls}), "ascii"
        )
    return folder


def is_mirror(folder: Path) -> bool:
    """Whether a folder is that of a mirror in the user's folder of caches."""
    if not os.path.lexists(folder / _FILE):
        return False
    return folder.resolve().parent == _clusters().resolve()


def refuse_mirror(folder: Path, what: str) -> None:
    """Raise ClusterError if a folder is a mirror. what: cannot be done then, as a noun."""
    if is_mirror(folder):
        raise ClusterError(
            f"{what} is for an index in a folder, and this one is in Milvus, with its lake in "
            f"{read_mirror(folder).lake}. docs/scale.md says what to do there instead."
        )


def read_mirror(folder: Path) -> ClusterPlace:
    """Whose mirror a folder is, with its lake; raises IndexDamagedError."""
    try:
        content = json.loads(read_regular(folder / _FILE, _MOST_BYTES) or b"")
        place = parse(content["place"])
        if not isinstance(content["lake"], str):
            raise TypeError("its lake is not text")
        return ClusterPlace(
            place.host, place.port, place.name, content["lake"], bool(content["tls"])
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise IndexDamagedError(
            f"{folder / _FILE} cannot be read ({error}). Delete this folder: it is made again."
        ) from error


def _clusters() -> Path:
    import platformdirs

    return platformdirs.user_cache_path("crossmodal-retrieval") / "clusters"
