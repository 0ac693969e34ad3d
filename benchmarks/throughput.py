"""How many photos a second are decoded, encoded and indexed, beside what other programs do.

All ways see the same files, in one run, one after the other. A file is always decoded from memory
that the system keeps of it: disks are not measured. Run it as `retrieval benchmark throughput` or
`python -m benchmarks.throughput`.
"""

import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import retrieval
from benchmarks import peers, sample_photos
from indexes.lazy_imports import load_torch
from retrieval.encoders.base import Encoder
from retrieval.encoders.nvjpeg import jpeg_decoder
from retrieval.photos.decode import DecodeJpeg, default_max_megapixels, open_photo

MEGAPIXELS = (0.2, 2.0, 12.0)
_BATCH = 32


@dataclass(frozen=True)
class Speed:
    """One way over one size of photos: the median of the repeats.

    cpu: processor seconds a photo, of all cores, which another program's load changes little.
    """

    megapixels: float
    way: str
    photos_per_second: float
    cpu: float


@dataclass(frozen=True)
class Throughput:
    """What `measure` found; `notes` say what was left out."""

    model: str
    engine: str
    device: str
    workers: int
    machine: str
    speeds: tuple[Speed, ...]
    notes: tuple[str, ...]

    def speed(self, megapixels: float, way: str) -> Speed:
        """The speed of one way; raises StopIteration where it was not measured."""
        return next(s for s in self.speeds if (s.megapixels, s.way) == (megapixels, way))

    def reached(self, megapixels: float) -> tuple[float, float]:
        """End to end as a share of the slower of decoding and encoding, and of what they leave each
        other where both need the same cores: 1 / (1 / decode + 1 / encode)."""
        decode, encode, all_of_it = (
            self.speed(megapixels, way).photos_per_second for way in ("decode", "encode", "index")
        )
        return all_of_it / min(decode, encode), all_of_it * (1 / decode + 1 / encode)


def measure(
    model: str = "mini",
    compute: retrieval.Compute = retrieval.Compute(),
    megapixels: Sequence[float] = MEGAPIXELS,
    photos: int = 256,
    repeats: int = 3,
    workers: int | None = None,
    sources: Path | None = None,
    with_peers: bool = True,
    log: Callable[[str], None] = lambda _: None,
) -> Throughput:
    """Measure every way on photos of each size.

    photos: how many of the smallest size; of larger ones as many as take about as long, at least
    32. workers: decoding threads, by default one a core. sources: a folder of photos to make them
    from. Raises RetrievalError where the model or the photos are not to be had.
    """
    threads = workers or max(os.cpu_count() or 1, 2)
    encoder = retrieval.load_encoder(model, log, compute)
    notes: list[str] = []
    speeds: list[Speed] = []
    with tempfile.TemporaryDirectory() as place:
        others = _peers(encoder, Path(place), notes) if with_peers else []
        for size in megapixels:
            count = max(32, round(photos * min(1.0, (megapixels[0] / size) ** 0.5)))
            log(f"{count} photos of {size:g} megapixels")
            folder = Path(place, f"{size:g}")
            paths = sample_photos.make(folder, size, count, sources)
            ways = _ways(encoder, folder, paths, threads, others)
            for way in ways.values():
                way(paths[:_BATCH])  # compiles, and fills caches
            taken: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
            for _ in range(repeats):  # in turns: a machine's mood hits all ways alike
                for name, way in ways.items():
                    taken[name].append(_timed(way, paths))
            for name, times in taken.items():
                wall, cpu = (statistics.median(column) for column in zip(*times, strict=True))
                speeds.append(Speed(size, name, count / wall, cpu / count))
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    return Throughput(
        encoder.name,
        compute.engine,
        _device(encoder),
        threads,
        machine,
        tuple(speeds),
        tuple(notes),
    )


def _device(encoder: Encoder) -> str:
    """Where photos were encoded, a graphics card by its name."""
    if not encoder.device.startswith("cuda"):
        return encoder.device
    name: str = load_torch().cuda.get_device_name(encoder.device)
    return f"{encoder.device} ({name})"


def _timed(way: Callable[[Sequence[Path]], object], paths: Sequence[Path]) -> tuple[float, float]:
    """Wall and processor seconds of one way over all photos."""
    wall, cpu = time.perf_counter(), time.process_time()
    way(paths)
    return time.perf_counter() - wall, time.process_time() - cpu


def _peers(encoder: Encoder, folder: Path, notes: list[str]) -> list[peers.Peer]:
    exported = peers.onnx_runtime(encoder, folder)
    if exported is None:
        notes.append(
            "ONNX Runtime is not installed, so that peer is left out: `pip install "
            "'crossmodal-retrieval[bench]'`."
        )
    return [peers.torch_eager(encoder), *([exported] if exported else [])]


def _ways(
    encoder: Encoder,
    folder: Path,
    paths: Sequence[Path],
    threads: int,
    others: Sequence[peers.Peer],
) -> dict[str, Callable[[Sequence[Path]], object]]:
    """By name, what is to be timed over some of `paths`, which lie in `folder`."""

    limit = default_max_megapixels(threads)

    def decode(some: Sequence[Path], by: DecodeJpeg | None) -> list[Any]:
        def read(path: Path) -> Any:
            with path.open("rb") as file:
                return encoder.prepare(open_photo(file, "", limit, encoder.image_size, by)[0])

        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(read, some))

    on_card = jpeg_decoder(encoder)
    prepared = decode(paths, on_card)

    def encode(some: Sequence[Path]) -> None:
        encoder.encode_images(prepared[: len(some)])

    def index(_: Sequence[Path]) -> None:
        with tempfile.TemporaryDirectory() as place:
            options = retrieval.Options(workers=threads)
            retrieval.index(folder, index=place, model=encoder, options=options)

    ways: dict[str, Callable[[Sequence[Path]], object]] = {
        "decode": lambda some: decode(some, on_card),
        "encode": encode,
        "index": index,
    }
    if on_card is not None:
        ways["decode, by the CPU alone"] = lambda some: decode(some, None)
    for peer in others:
        ways[peer.name] = lambda some, peer=peer: peers.embed(peer, encoder, some)  # type: ignore[misc]
    return ways


def as_table(found: Throughput) -> str:
    """A line a way, a column a size."""
    sizes = sorted({speed.megapixels for speed in found.speeds})
    ways = list(dict.fromkeys(speed.way for speed in found.speeds))
    lines = [
        f"Photos a second, and in brackets processor milliseconds a photo. {found.machine}.",
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
    for position, what in enumerate(
        ("index, of the slower of the two", "index, of what shared cores allow")
    ):
        cells_text = [f"{found.reached(size)[position]:.0%}" for size in sizes]
        lines.append(f"{what:<36}{cells_text[0]:>16}" + "".join(f"{c:>20}" for c in cells_text[1:]))
    return "\n".join([*lines, *found.notes])


def as_json(found: Throughput) -> dict[str, Any]:
    """All figures, with the shares that the table shows."""
    sizes = sorted({speed.megapixels for speed in found.speeds})
    shares = {f"{size:g}": found.reached(size) for size in sizes}
    return asdict(found) | {
        "of_the_slower": {size: share[0] for size, share in shares.items()},
        "of_what_shared_cores_allow": {size: share[1] for size, share in shares.items()},
    }


if __name__ == "__main__":
    from benchmarks.commands import alone

    alone("throughput")
