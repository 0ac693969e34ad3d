"""Photos per second: decoding, encoding, indexing, and the pipelines of other programs.

All of them get the same files in one run, one after the other. Files are read from the system's
cache: disks are not measured. Run it as `retrieval benchmark throughput` or
`python -m benchmarks.throughput`.
"""

import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import retrieval
from benchmarks import peers, sample_photos
from indexes.lazy_imports import load_torch
from retrieval.encoders.base import Encoder
from retrieval.encoders.nvjpeg import jpeg_decoder, nvjpeg_decoder
from retrieval.photos.decode import DecodeJpeg, open_photo
from retrieval.photos.decoder_processes import DecoderProcesses
from retrieval.photos.size import default_max_megapixels

MEGAPIXELS = (0.2, 2.0, 12.0)
_MIN_PHOTOS = 32

Pipeline = Callable[[Sequence[Path]], object]
"""Processes all photos of a list; what it returns is not used."""


@dataclass(frozen=True)
class ThroughputOptions:
    """What to measure, and on which photos.

    megapixels: the sizes, smallest first; photos: how many of the smallest size, of larger ones as
    many as take about as long, at least 32; workers: decoding threads, by default one per core;
    sources: a folder of JPEG photos to make the test photos from, by default those of the demo;
    with_peers: measure the pipelines of other programs, too.
    """

    model: str = "mini"
    compute: retrieval.Compute = field(default_factory=retrieval.Compute)
    megapixels: Sequence[float] = MEGAPIXELS
    photos: int = 256
    repeats: int = 3
    workers: int | None = None
    sources: Path | None = None
    with_peers: bool = True


@dataclass(frozen=True)
class Speed:
    """One pipeline on one size of photos: the median of the repeats.

    cpu: processor seconds per photo, over all cores; other programs' load changes them little.
    """

    megapixels: float
    way: str
    photos_per_second: float
    cpu: float


@dataclass(frozen=True)
class Throughput:
    """What `measure` found. notes: what was left out, in sentences."""

    model: str
    engine: str
    device: str
    workers: int
    machine: str
    speeds: tuple[Speed, ...]
    notes: tuple[str, ...]

    def speed(self, megapixels: float, way: str) -> Speed:
        """The speed of one pipeline. Raises StopIteration if it was not measured."""
        return next(s for s in self.speeds if (s.megapixels, s.way) == (megapixels, way))

    def index_shares(self, megapixels: float) -> tuple[float, float]:
        """The speed of indexing as a share of two limits.

        The slower of decoding and encoding; and 1 / (1 / decode + 1 / encode), which is the limit
        where both need the same cores.
        """
        decode, encode, index = (
            self.speed(megapixels, way).photos_per_second for way in ("decode", "encode", "index")
        )
        return index / min(decode, encode), index * (1 / decode + 1 / encode)


def measure(
    options: ThroughputOptions = ThroughputOptions(), log: Callable[[str], None] = lambda _: None
) -> Throughput:
    """Measure every pipeline on photos of each size.

    Raises RetrievalError if the model or the photos are not available.
    """
    workers = options.workers or max(os.cpu_count() or 1, 2)
    encoder = retrieval.load_encoder(options.model, log, options.compute)
    notes: list[str] = []
    speeds: list[Speed] = []
    with tempfile.TemporaryDirectory() as temporary:
        others = _peers(encoder, Path(temporary), notes) if options.with_peers else []
        for size in options.megapixels:
            scale = min(1.0, (options.megapixels[0] / size) ** 0.5)
            count = max(_MIN_PHOTOS, round(options.photos * scale))
            log(f"{count} photos of {size:g} megapixels")
            folder = Path(temporary, f"{size:g}")
            paths = sample_photos.make(folder, size, count, options.sources)
            pipelines = _pipelines(encoder, folder, paths, workers, others)
            speeds += _measure_speeds(pipelines, size, paths, options.repeats)
    return Throughput(
        model=encoder.name,
        engine=options.compute.engine,
        device=_describe_device(encoder),
        workers=workers,
        machine=f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        speeds=tuple(speeds),
        notes=tuple(notes),
    )


def _measure_speeds(
    pipelines: Mapping[str, Pipeline], megapixels: float, paths: Sequence[Path], repeats: int
) -> list[Speed]:
    for pipeline in pipelines.values():
        pipeline(paths[:_MIN_PHOTOS])  # compiles, and fills caches
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in pipelines}
    for _ in range(repeats):  # in turns: a slow phase of the machine affects all pipelines alike
        for name, pipeline in pipelines.items():
            times[name].append(_time(pipeline, paths))
    speeds = []
    for name, repeated in times.items():
        wall, cpu = (statistics.median(column) for column in zip(*repeated, strict=True))
        speeds.append(Speed(megapixels, name, len(paths) / wall, cpu / len(paths)))
    return speeds


def _time(pipeline: Pipeline, paths: Sequence[Path]) -> tuple[float, float]:
    """Wall and processor seconds of one pipeline over all photos."""
    wall, cpu = time.perf_counter(), time.process_time()
    pipeline(paths)
    return time.perf_counter() - wall, time.process_time() - cpu


def _describe_device(encoder: Encoder) -> str:
    """Where photos are encoded; a GPU with its product name."""
    if not encoder.device.startswith("cuda"):
        return encoder.device
    name: str = load_torch().cuda.get_device_name(encoder.device)
    return f"{encoder.device} ({name})"


def _peers(encoder: Encoder, folder: Path, notes: list[str]) -> list[peers.Peer]:
    onnx = peers.onnx_runtime(encoder, folder)
    if onnx is None:
        notes.append(
            "ONNX Runtime is not installed and was left out. To measure it: `pip install "
            "'crossmodal-retrieval[bench]'`."
        )
    return [peers.torch_eager(encoder), *([onnx] if onnx else [])]


def _pipelines(
    encoder: Encoder,
    folder: Path,
    paths: Sequence[Path],
    workers: int,
    others: Sequence[peers.Peer],
) -> dict[str, Pipeline]:
    """The pipelines by name, to be timed over some of `paths`, which are the photos in `folder`."""
    limit = default_max_megapixels(workers)

    def decode(some: Sequence[Path], decoder: DecodeJpeg | None) -> list[Any]:
        def read(path: Path) -> Any:
            with path.open("rb") as file:
                photo, _ = open_photo(file, "", limit, encoder.image_size, decoder, processes)
                return encoder.prepare(photo)

        with DecoderProcesses() as processes, ThreadPoolExecutor(workers) as pool:
            return list(pool.map(read, some))

    gpu_decoder = jpeg_decoder(encoder)
    prepared = decode(paths, gpu_decoder)

    def encode(some: Sequence[Path]) -> None:
        encoder.encode_images(prepared[: len(some)])

    def index(_: Sequence[Path]) -> None:
        with tempfile.TemporaryDirectory() as temporary:
            options = retrieval.Options(workers=workers)
            retrieval.index(folder, index=temporary, model=encoder, options=options)

    pipelines: dict[str, Pipeline] = {
        "decode": lambda some: decode(some, gpu_decoder),
        "encode": encode,
        "index": index,
    }
    on_gpu = None if encoder.device == "cpu" else nvjpeg_decoder(encoder.device)
    if on_gpu is not None:  # whether an index run would use it or not
        pipelines["decode, by the GPU"] = lambda some: decode(some, on_gpu.decode)
        pipelines["decode, by the CPU"] = lambda some: decode(some, None)
    for peer in others:
        pipelines[peer.name] = lambda some, peer=peer: peers.embed(peer, encoder, some)  # type: ignore[misc]
    return pipelines


def as_table(found: Throughput) -> str:
    """A table for the terminal: one line per pipeline, one column per size."""
    sizes = sorted({speed.megapixels for speed in found.speeds})
    ways = list(dict.fromkeys(speed.way for speed in found.speeds))
    lines = [
        f"Photos per second, and in brackets processor milliseconds per photo. {found.machine}.",
        f"{found.model}, engine {found.engine}, device {found.device}, {found.workers} decoding "
        "threads.",
        f"{'':<32}" + "".join(f"{f'{size:g} megapixels':>20}" for size in sizes),
    ]
    for way in ways:
        cells = [found.speed(size, way) for size in sizes]
        lines.append(
            f"{way:<32}"
            + "".join(f"{f'{c.photos_per_second:.1f} ({c.cpu * 1e3:.1f})':>20}" for c in cells)
        )
    for position, label in enumerate(
        ("index, of the slower of the two", "index, of what shared cores allow")
    ):
        first, *rest = (f"{found.index_shares(size)[position]:.0%}" for size in sizes)
        lines.append(f"{label:<36}{first:>16}" + "".join(f"{share:>20}" for share in rest))
    return "\n".join([*lines, *found.notes])


def as_json(found: Throughput) -> dict[str, Any]:
    """Plain values, with the shares that the table shows."""
    sizes = sorted({speed.megapixels for speed in found.speeds})
    shares = {f"{size:g}": found.index_shares(size) for size in sizes}
    return asdict(found) | {
        "of_the_slower": {size: share[0] for size, share in shares.items()},
        "of_what_shared_cores_allow": {size: share[1] for size, share in shares.items()},
    }


if __name__ == "__main__":
    from benchmarks.commands import alone

    alone("throughput")
