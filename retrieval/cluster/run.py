"""Bring a lake up to date with its sources: list, compare, encode on the workers, commit.

One run at a time holds the lake's lease. Parts are named in a manifest every few seconds; what a
killed run wrote before is found and used. Vectors are loaded afterwards.
"""

import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from indexes.catalogue import IndexModel
from indexes.errors import IndexMissingError, RetrievalError
from indexes.lake.lease import lease
from indexes.lake.location import Location
from indexes.lake.manifest import Manifest, Part, commit, create, delete_old, latest
from indexes.lake.mirror import MirrorCatalogue, update
from indexes.lake.schema import FileRow
from indexes.lake.write_parts import write_files
from retrieval.cluster.known import Gone, Known, gone_rows, known_files, left_parts
from retrieval.cluster.options import ClusterOptions
from retrieval.cluster.pool import Pool, ray_cluster
from retrieval.cluster.sources import Listing, Source, find_source, list_source
from retrieval.cluster.tasks import Done, Task, in_tasks
from retrieval.cluster.work import Job, Work, part_name
from retrieval.encoders.base import Log
from retrieval.encoders.registry import check_model, load_encoder
from retrieval.fusion.attention import Fusion
from retrieval.fusion.store import load_fusion
from retrieval.indexing.options import Options, Progress, Report

COMMIT_SECONDS = 15.0
"""Between two manifests of a run."""
_MOST, _FEWEST = 1024, 32  # files of a task
_TASKS_EACH = 4  # that a worker has at least, if there are enough files


@dataclass
class _State:
    """A run so far. waiting: parts that no manifest names yet."""

    manifest: Manifest
    waiting: list[Part] = field(default_factory=list)
    committed: float = field(default_factory=time.monotonic)
    done: list[Done] = field(default_factory=list)
    reasons: list[tuple[str, str]] = field(default_factory=list)
    skipped: int = 0
    files: int = 0


def index_lake(
    lake: str,
    mirror: Path,
    named: Sequence[str] = (),
    model: str | None = None,
    options: Options = Options(),
    cluster: ClusterOptions = ClusterOptions(),
    progress: Callable[[Progress], None] = lambda _: None,
    log: Log = lambda _: None,
    make: Callable[..., object] = Work,
) -> Report:
    """Bring the lake up to date with sources, by default with all that it knows.

    mirror: the folder of the lake's mirror on this machine; model: as for an index in a folder.
    make: what a worker does its tasks with. Raises RetrievalError; what was written until then
    is used by the next run.
    """
    started = time.perf_counter()
    location = Location.of(lake)
    sources = [find_source(name) for name in named]
    with lease(location):
        manifest = _open(location, model, options, log)
        fusion = _fusion(manifest.model)
        sources = sources or _remembered(manifest)
        if not sources:
            raise RetrievalError("Name a folder, URL, tar or table of photos to index.")
        settings = _settings(manifest, sources, options)
        roots = list(dict.fromkeys(source.root for source in sources))
        left = left_parts(location, manifest, part_name(manifest.model, ""), roots)
        if left or settings != dict(manifest.settings):
            manifest = commit(location, manifest, left, settings=settings)
        state = _State(manifest)
        update(mirror, location)
        with MirrorCatalogue.open(mirror) as catalogue:
            known = known_files(catalogue, roots)
            tasks, gone, report = _compare(sources, known, options, cluster, settings)
            state.waiting += [write_files(location, rows) for rows in gone_rows(catalogue, gone)]
        if tasks:
            job = Job(location.url, manifest.model, fusion, _for_workers(options), model)
            with ray_cluster(cluster.ray):
                _encode(location, job, known, tasks, cluster, state, progress, make)
        _commit(location, state)
        update(mirror, location)
        delete_old(location, state.manifest.version)
    return _report(report, state, time.perf_counter() - started)


def _open(location: Location, model: str | None, options: Options, log: Log) -> Manifest:
    """The lake's newest manifest; a new lake is created with the model."""
    with suppress(IndexMissingError):
        manifest = latest(location)
        if model is not None:
            check_model(manifest.model, model)
        return manifest
    encoder = load_encoder(model or "auto", log, options.compute)
    fusion = load_fusion(encoder.fingerprint, encoder.dim).name
    return create(location, IndexModel(encoder.name, encoder.fingerprint, encoder.dim, fusion))


def _fusion(model: IndexModel) -> Fusion:
    fusion = load_fusion(model.fingerprint, model.dim)
    if fusion.name != model.fusion:
        raise RetrievalError(
            f"The photos of this lake are fused by {model.fusion}, and the fusion here is "
            f"{fusion.name}. Fuse them again with `retrieval fuse --index INDEX`, then index."
        )
    return fusion


def _remembered(manifest: Manifest) -> list[Source]:
    return [find_source(name) for name in manifest.settings.get("sources", "").split("\n") if name]


def _settings(manifest: Manifest, sources: Sequence[Source], options: Options) -> dict[str, str]:
    """What later runs need to know: sources, patterns and lists of captions."""
    settings = dict(manifest.settings)
    before = [name for name in settings.get("sources", "").split("\n") if name]
    places = [name for source in sources for name in source.places]
    settings["sources"] = "\n".join(dict.fromkeys([*before, *places]))
    for name, chosen in (("exclude", options.exclude), ("include", options.include)):
        if chosen is not None:
            settings[name] = "\n".join(chosen)
    if options.captions is not None:
        settings["captions"] = json.dumps([str(file.absolute()) for file in options.captions])
    return settings


def _for_workers(options: Options) -> Options:
    """The options that a worker needs."""
    return replace(options, exclude=None, include=None, captions=None, prune=False, rebuild=False)


@dataclass(frozen=True)
class _Listed:
    unchanged: int = 0
    removed: int = 0
    notes: tuple[str, ...] = ()


def _compare(
    sources: Sequence[Source],
    known: Known,
    options: Options,
    cluster: ClusterOptions,
    settings: dict[str, str],
) -> tuple[list[Task], list[Gone], _Listed]:
    """The tasks of a run, the files that are gone, and what else was found."""
    exclude, include = (settings.get(k, "").split("\n") for k in ("exclude", "include"))
    lists = [Path(name) for name in json.loads(settings.get("captions") or "[]")]
    patterns = ([p for p in exclude if p], [p for p in include if p])
    retry_large = options.max_megapixels is not None
    found: dict[str, list[Listing]] = {}
    gone: list[Gone] = []
    unchanged, notes = 0, list[str]()
    for source in sources:
        for listing in list_source(source, *patterns, lists):
            to_read, missing = known.changes(listing, retry_large)
            unchanged += len(listing.items) - len(to_read)
            gone += missing
            notes += listing.notes
            if to_read:
                found.setdefault(listing.root, []).append(replace(listing, items=to_read))
    total = sum(len(listing.items) for several in found.values() for listing in several)
    most = cluster.task_files or min(max(total // (_TASKS_EACH * 8), _FEWEST), _MOST)
    tasks = [
        task
        for root, several in found.items()
        for listing in several
        for task in in_tasks(root, listing.items, most)
    ]
    return tasks, gone, _Listed(unchanged, len(gone), tuple(dict.fromkeys(notes)))


def _encode(
    location: Location,
    job: Job,
    known: Known,
    tasks: Sequence[Task],
    cluster: ClusterOptions,
    state: _State,
    progress: Callable[[Progress], None],
    make: Callable[..., object],
) -> None:
    """Give the tasks to workers, and commit what they wrote every few seconds."""
    total = sum(len(task.items) for task in tasks)
    progress(Progress(0, total, 0))
    with Pool(job, known.photos, cluster.size, make) as pool:
        for task, done in pool.run(iter(tasks)):
            if isinstance(done, str):
                done = _given_up(location, task, done)
            state.waiting += done.parts
            state.done.append(replace(done, parts=(), reasons=()))
            state.reasons += done.reasons
            state.files += len(task.items)
            state.skipped += len(done.reasons)
            progress(Progress(state.files, total, state.skipped))
            if time.monotonic() - state.committed > COMMIT_SECONDS:
                _commit(location, state)


def _given_up(location: Location, task: Task, reason: str) -> Done:
    """A task of one file that ends every worker: the file is recorded with the reason."""
    rows = [
        FileRow(task.root, item.path, item.bytes, item.mtime_ns, None, reason)
        for item in task.items
    ]
    part = write_files(location, rows)
    reasons = tuple((f"{task.root}/{item.path}", reason) for item in task.items)
    return Done((part,), len(rows), reasons=reasons)


def _commit(location: Location, state: _State) -> None:
    if state.waiting:
        state.manifest = commit(location, state.manifest, state.waiting)
        state.waiting = []
    state.committed = time.monotonic()


def _report(listed: _Listed, state: _State, seconds: float) -> Report:
    encoded = sum(done.encoded for done in state.done)
    read = sum(done.files for done in state.done) - state.skipped
    return Report(
        added=encoded,
        copied=max(read - encoded, 0),
        removed=listed.removed,
        unchanged=listed.unchanged,
        skipped=state.skipped,
        encoded=encoded,
        captioned=sum(done.captioned for done in state.done),
        seconds=seconds,
        reasons=state.reasons,
        notes=list(listed.notes),
    )
