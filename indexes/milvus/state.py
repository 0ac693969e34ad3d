"""What is loaded into a collection: a small file beside the lake's parts.

It belongs to one collection, by its token: if the collection is lost, so is what the file says, and
all is loaded again.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from indexes.lake.location import Location
from indexes.lake.manifest import is_part

_MOST_BYTES = 256 * 2**20


@dataclass(frozen=True)
class State:
    """What is loaded.

    token: of the collection; parts: the names of the lake's parts; ordering: the name of the bias
    that is the last dimension, '' for none; means: the mean of each bias, by name; full: how many
    photos there were when all of them were loaded.
    """

    token: str = ""
    parts: frozenset[str] = frozenset()
    ordering: str = ""
    means: Mapping[str, float] = field(default_factory=dict)
    full: int = 0


def read_state(location: Location, name: str, token: str) -> State:
    """What is loaded into the collection `name` with this token; nothing if it cannot be read."""
    try:
        content = json.loads(location.read(_file(name), _MOST_BYTES))
        parts, means = content["parts"], content["means"]
        is_whole = (
            content["token"] == token
            and isinstance(content["ordering"], str)
            and type(content["full"]) is int
            and all(is_part(part) for part in parts)
            and all(math.isfinite(mean) for mean in means.values())
        )
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return State(token)
    if not is_whole:
        return State(token)
    return State(token, frozenset(parts), content["ordering"], means, content["full"])


def write_state(location: Location, name: str, state: State) -> None:
    """Record what is loaded; raises StorageError."""
    content = {
        "token": state.token,
        "parts": sorted(state.parts),
        "ordering": state.ordering,
        "means": dict(state.means),
        "full": state.full,
    }
    location.write(_file(name), json.dumps(content).encode())


def _file(name: str) -> str:
    return f"loaded/{name}.json"
