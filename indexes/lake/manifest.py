"""The manifests of a lake: each names the model and the parts that belong to one version of it.

A manifest is never changed: a writer adds the next one, and readers take the highest. Two writers
cannot both write the same version. What is in the parts is not known here.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from indexes.catalogue import MAX_DIM, IndexModel
from indexes.errors import IndexBusyError, IndexDamagedError, IndexMissingError
from indexes.lake.location import Location

FORMAT = 1
FOLDER = "manifest"
MOST_PARTS = 1_000_000
_MOST_BYTES = 512 * 2**20
_NAME = re.compile(r"manifest/(\d{8})\.json")
_PART = re.compile(r"(photos|files)/part-[0-9A-Za-z_-]{1,80}\.parquet")

Kind = Literal["photos", "files"]


@dataclass(frozen=True)
class Part:
    """One Parquet file of a lake. name: `photos/part-….parquet` or `files/part-….parquet`."""

    name: str
    rows: int
    bytes: int

    @property
    def kind(self) -> Kind:
        return "photos" if self.name.startswith("photos/") else "files"


@dataclass(frozen=True)
class Manifest:
    """One version of a lake. version: from 1; parts: those written later come later.

    settings: what users chose, as in the table `meta` of a catalogue.
    """

    version: int
    model: IndexModel
    parts: tuple[Part, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)

    def of_kind(self, kind: Kind) -> list[Part]:
        """The parts of photos, or of files, in the order in which they were written."""
        return [part for part in self.parts if part.kind == kind]

    def to_json(self) -> bytes:
        """The content of its file."""
        model = self.model
        return json.dumps(
            {
                "format": FORMAT,
                "version": self.version,
                "model": model.name,
                "fingerprint": model.fingerprint,
                "dim": model.dim,
                "fusion": model.fusion,
                "settings": dict(self.settings),
                "parts": [[part.name, part.rows, part.bytes] for part in self.parts],
            }
        ).encode()


def latest_version(location: Location) -> int:
    """The number of the newest manifest, 0 if there is none; raises StorageError."""
    found = (_NAME.fullmatch(name) for name in location.names(FOLDER))
    return max((int(match[1]) for match in found if match), default=0)


def latest(location: Location) -> Manifest:
    """The newest manifest; raises IndexMissingError or IndexDamagedError."""
    version = latest_version(location)
    if not version:
        raise IndexMissingError(
            f"There is no lake in {location.url}. Make one with `retrieval index FOLDER --index "
            f"milvus://HOST:PORT/NAME --lake {location.url}`."
        )
    return read(location, version)


def read(location: Location, version: int) -> Manifest:
    """One manifest; raises IndexDamagedError."""
    name = _file(version)
    try:
        content: Any = json.loads(location.read(name, _MOST_BYTES))
        if content["format"] != FORMAT:
            raise IndexDamagedError(
                f"The lake {location.url} has format {str(content['format'])[:20]}; this retrieval "
                f"reads {FORMAT}. Upgrade with `pip install --upgrade crossmodal-retrieval`."
            )
        return _manifest(content, version)
    except (ValueError, KeyError, TypeError, RecursionError, FileNotFoundError) as error:
        raise IndexDamagedError(
            f"{location.url}/{name} is not a manifest ({str(error)[:80]}). Delete this file: the "
            "lake is then as it was before."
        ) from error


def create(location: Location, model: IndexModel) -> Manifest:
    """The first manifest of a new lake; raises IndexBusyError if there is a lake."""
    return _write(location, Manifest(1, model))


def commit(
    location: Location,
    before: Manifest,
    added: Iterable[Part] = (),
    *,
    removed: Iterable[str] = (),
    settings: Mapping[str, str] | None = None,
    fusion: str | None = None,
) -> Manifest:
    """The manifest after `before`, with more parts and without those named in `removed`.

    Parts that `before` has are not added again. Raises IndexBusyError if another writer was faster.
    """
    gone = set(removed)
    known = {part.name for part in before.parts}
    parts = [part for part in before.parts if part.name not in gone]
    parts += [part for part in added if part.name not in known]
    model = before.model if fusion is None else replace(before.model, fusion=fusion)
    chosen = before.settings if settings is None else {**before.settings, **settings}
    return _write(location, Manifest(before.version + 1, model, tuple(parts), chosen))


def _write(location: Location, manifest: Manifest) -> Manifest:
    if not location.create(_file(manifest.version), manifest.to_json()):
        raise IndexBusyError(
            f"Another process changed the lake {location.url} meanwhile. Run the same command "
            "again: what was encoded until now is used."
        )
    return manifest


def delete_old(location: Location, newest: int, kept: int = 20) -> None:
    """Delete the manifests that are more than `kept` versions older than the newest."""
    for name in location.names(FOLDER):
        match = _NAME.fullmatch(name)
        if match and int(match[1]) <= newest - kept:
            location.delete(name)


def is_part(name: object) -> bool:
    """Whether a name may be that of a part."""
    return isinstance(name, str) and _PART.fullmatch(name) is not None


def _file(version: int) -> str:
    return f"{FOLDER}/{version:08d}.json"


def _manifest(content: Any, version: int) -> Manifest:
    """A parsed manifest, checked; raises ValueError, KeyError or TypeError."""
    texts = [content[key] for key in ("model", "fingerprint", "fusion")]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("the model is not text")
    dim, settings = content["dim"], content["settings"]
    if type(dim) is not int or not 0 < dim <= MAX_DIM:
        raise ValueError(f"the dimension is not a number from 1 to {MAX_DIM}")
    if content["version"] != version:
        raise ValueError("it is another version than its name says")
    if not isinstance(settings, dict) or not all(isinstance(v, str) for v in settings.values()):
        raise ValueError("the settings are not text")
    entries = content["parts"]
    if not isinstance(entries, list) or len(entries) > MOST_PARTS:
        raise ValueError("the parts are not a list of parts")
    parts = [Part(name, rows, size) for name, rows, size in entries]
    for part in parts:
        counts = (part.rows, part.bytes)
        if not is_part(part.name) or any(type(n) is not int or n < 0 for n in counts):
            raise ValueError(f"{str(part.name)[:40]!r} is not a part")
    if len({part.name for part in parts}) < len(parts):
        raise ValueError("a part is named twice")
    model = IndexModel(texts[0], texts[1], dim, texts[2])
    return Manifest(version, model, tuple(parts), settings)
