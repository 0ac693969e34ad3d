"""GPUs: what they compute, and what happens to the work when they run out of memory or fail.

`pytest -m cuda` runs what needs a GPU. The rest runs anywhere: torch also calls the processor
`cpu:0`, and under that name it stands in for a GPU here, with the errors that torch raises for one.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import retrieval
from indexes.lazy_imports import load_torch
from retrieval import Compute
from retrieval.encoders import cuda, openclip
from retrieval.encoders.cuda import batch_size_for
from retrieval.encoders.mini import encoder as mini_encoder
from retrieval.encoders.mini.encoder import MiniEncoder
from retrieval.encoders.nvjpeg import nvjpeg_decoder
from retrieval.encoders.openclip import OpenClipEncoder
from retrieval.errors import ModelError
from tests.conftest import Run
from tests.test_engines import cosines, prepared

STAND_IN = "cpu:0"
pytestmark = pytest.mark.filterwarnings("ignore:The image decoding")  # torchvision's is to move
ON_GPU, ON_CPU = Compute("torch", "cuda"), Compute("torch", "cpu")


def need_gpu() -> None:
    why = cuda.cuda_error()
    if why is not None:
        pytest.skip(f"no NVIDIA GPU that torch can use: {why or 'there is no driver'}")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request: pytest.FixtureRequest) -> str:
    if request.param == "cuda":
        need_gpu()
    return str(request.param)


def _stand_in_device(compute: Compute, _: object) -> str:
    return STAND_IN if compute.device == "cuda" else "cpu"


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (mini_encoder, openclip):
        monkeypatch.setattr(module, "torch_device", _stand_in_device)


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[[int], Any]], None]]:
    """Have every module on the stand-in raise what a function of the batch's length returns."""

    def install(error: Callable[[int], Exception | None]) -> None:
        from retrieval.encoders.torch_runner import ModuleRunner

        real = ModuleRunner._place

        def place(self: ModuleRunner, where: str, compile: bool) -> None:
            real(self, where, compile)
            if self.device != "cpu":
                self.module.register_forward_pre_hook(broken)

        def broken(_: object, batch: tuple[Any]) -> None:
            if (raised := error(len(batch[0]))) is not None:
                raise raised

        monkeypatch.setattr(ModuleRunner, "_place", place)

    yield install


# The size of a batch ---------------------------------------------------------------------------


@given(each=st.floats(1, 1e11), free=st.integers(0, 2**40), most=st.sampled_from([1, 32, 256]))
def test_a_batch_fits_the_memory_that_is_free(each: float, free: int, most: int) -> None:
    size = batch_size_for(each, free, most)
    assert 1 <= size <= most and size & (size - 1) == 0
    assert size == 1 or size * each <= free
    assert size == most or 4 * size * each > free, "and no memory is left lying idle"


@pytest.mark.parametrize("full", ["CUDA out of memory. Tried", "CUDA error: out of memory"])
def test_a_full_gpu_gets_smaller_batches(
    stand_in: None, fails: Any, originals: Path, full: str
) -> None:
    torch, messages, sizes = load_torch(), [], []

    def error(length: int) -> Exception | None:
        sizes.append(length)
        kind = torch.OutOfMemoryError if "Tried" in full else torch.AcceleratorError
        return kind(full) if length > 3 else None

    fails(error)
    encoder = MiniEncoder(compute=ON_GPU, log=messages.append)
    photos = prepared(encoder, originals)[:6]
    rows = encoder.encode_images(photos)
    assert cosines(rows, MiniEncoder(compute=ON_CPU).encode_images(photos)).min() > 0.9999
    assert not messages and encoder.device == STAND_IN
    sizes.clear()
    encoder.encode_images(photos)
    assert max(sizes) == 2, "what it learned is kept"


def test_a_gpu_computes_few_lengths_of_batches_in_one_thread(
    stand_in: None, fails: Any, originals: Path
) -> None:
    """cuDNN takes seconds to prepare itself for each length, in each thread anew."""
    seen: set[tuple[int, int]] = set()

    def note(length: int) -> None:
        seen.add((length, threading.get_ident()))

    fails(note)
    encoder = MiniEncoder(compute=ON_GPU)
    photos = prepared(encoder, originals)
    expected = encoder.encode_images(photos)
    for count in (1, 2, 4, 7, 13, 20):
        with ThreadPoolExecutor(3) as pool:
            for rows in pool.map(encoder.encode_images, [photos[:count]] * 3):
                assert cosines(rows, expected[:count]).min() > 0.9999
    assert {length for length, _ in seen} <= {1, 4, 16, 64}
    assert len({thread for _, thread in seen}) == 1


def test_a_gpu_without_room_for_one_photo_falls_back_with_a_sentence(
    stand_in: None, fails: Any, originals: Path
) -> None:
    torch, messages = load_torch(), []
    fails(lambda _: torch.OutOfMemoryError("CUDA out of memory."))
    encoder = MiniEncoder(compute=ON_GPU, log=messages.append)
    photos = prepared(encoder, originals)[:2]
    assert len(encoder.encode_images(photos)) == 2
    assert encoder.device == "cpu"
    assert len(messages) == 1 and "no memory" in messages[0] and "CPU" in messages[0]


# A GPU that fails -----------------------------------------------------------------------------


def test_a_gpu_that_is_lost_halfway_loses_no_photo(
    stand_in: None, fails: Any, originals: Path, tmp_path: Path
) -> None:
    torch, messages, batches = load_torch(), [], []
    lost = "CUDA error: unspecified launch failure\nCUDA kernel errors might be asynchronously"

    def error(length: int) -> Exception | None:
        batches.append(length)
        return torch.AcceleratorError(lost) if len(batches) > 2 else None

    fails(error)
    encoder = MiniEncoder(compute=ON_GPU, log=messages.append)
    report = retrieval.index(
        originals, index=tmp_path, model=encoder, options=retrieval.Options(batch_size=5)
    )
    assert report.encoded == 20 and len(batches) == 3 and encoder.device == "cpu"
    assert messages == [
        "The GPU failed (CUDA error: unspecified launch failure): falling back to the CPU."
    ]
    retrieval.index(originals, index=tmp_path / "cpu", model=MiniEncoder(compute=ON_CPU))
    with retrieval.open(tmp_path) as there, retrieval.open(tmp_path / "cpu") as here:
        query = originals / "chelsea.png"
        np.testing.assert_allclose(
            [hit.score for hit in there.similar(query, k=19)],
            [hit.score for hit in here.similar(query, k=19)],
            atol=1e-4,
        )


def test_texts_and_photos_of_an_open_clip_model_survive_a_gpu(
    stand_in: None, fails: Any, random_clip: str, originals: Path
) -> None:
    messages: list[str] = []
    dead: list[bool] = []
    fails(lambda _: RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED") if dead else None)
    right = OpenClipEncoder(random_clip, ON_CPU)
    encoder = OpenClipEncoder(random_clip, ON_GPU, messages.append)
    photos = prepared(encoder, originals)[:9]
    assert photos[0].dtype == np.uint8, "bytes are a quarter of what floats would send"
    expected = right.encode_images(photos)
    assert cosines(encoder.encode_images(photos), expected).min() > 0.999, "in bfloat16"
    dead.append(True)
    np.testing.assert_allclose(encoder.encode_images(photos), expected, atol=1e-5)
    assert len(messages) == 1 and "CUDNN_STATUS_EXECUTION_FAILED" in messages[0]
    assert encoder.device == "cpu"
    np.testing.assert_allclose(
        encoder.encode_texts(["a dog", "a cat"]), right.encode_texts(["a dog", "a cat"]), atol=1e-5
    )


def test_where_torch_cannot_compile_the_gpu_computes_without(
    monkeypatch: pytest.MonkeyPatch, stand_in: None, originals: Path
) -> None:
    messages: list[str] = []

    def no_compiler(*_: object) -> None:
        raise RuntimeError("no compiler")

    def compile(module: Any) -> None:
        """As torch does it where it finds no compiler: only the first call fails."""
        module._compiled_call_impl = no_compiler

    monkeypatch.setattr(load_torch().nn.Module, "compile", compile)
    encoder = MiniEncoder(compute=Compute("torch", "cuda", compile=True), log=messages.append)
    photos = prepared(encoder, originals)[:3]
    rows = encoder.encode_images(photos)
    assert cosines(rows, MiniEncoder(compute=ON_CPU).encode_images(photos)).min() > 0.9999
    assert (
        encoder.device == STAND_IN and len(messages) == 1 and "without torch.compile" in messages[0]
    )


def test_an_error_that_the_cpu_has_too_is_raised(stand_in: None, random_clip: str) -> None:
    messages: list[str] = []
    encoder = OpenClipEncoder(random_clip, ON_GPU, messages.append)
    with pytest.raises(ModelError, match="cannot be used"):
        encoder.encode_images([np.zeros((3, 3, 5), np.uint8)])
    assert encoder.device == "cpu" and len(messages) == 1


def test_a_driver_that_does_not_match_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, few: Path, run: Run
) -> None:
    def unavailable() -> bool:
        warnings.warn(  # as torch does
            "CUDA initialization: The NVIDIA driver on your system is too old (found version "
            "11040). Please update your GPU driver by downloading and installing a new version",
            stacklevel=1,
        )
        return False

    monkeypatch.setattr(cuda, "has_nvidia_driver", lambda: True)
    monkeypatch.setattr(load_torch().cuda, "is_available", unavailable)
    done = run("index", few, "--model", "mini", "--device", "cuda")
    assert done.code == 0 and "4 added" in done.out
    (line,) = (line for line in done.messages.splitlines() if "NVIDIA" in line)
    assert "too old (found version 11040)" in line and "CPU" in line and "Please" not in line


def test_a_gpu_that_cannot_be_started_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = load_torch()

    def zeros(*_: object, **__: object) -> None:
        raise torch.AcceleratorError("CUDA error: initialization error\nCUDA kernel errors might")

    monkeypatch.setattr(cuda, "has_nvidia_driver", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "zeros", zeros)
    assert cuda.cuda_error() == "CUDA error: initialization error"


# On a real GPU --------------------------------------------------------------------------------


@pytest.mark.cuda
def test_a_gpu_gives_the_embeddings_of_the_cpu(originals: Path, random_clip: str) -> None:
    need_gpu()
    for make in (
        lambda compute: MiniEncoder(compute=compute),
        lambda compute: MiniEncoder(compute=replace(compute, compile=True)),
        lambda compute: OpenClipEncoder(random_clip, compute),
    ):
        there, here = make(ON_GPU), make(ON_CPU)
        photos = 20 * prepared(here, originals)  # several batches, the last of another length
        assert cosines(there.encode_images(photos), here.encode_images(photos)).min() > 0.999
        assert there.device == "cuda"
        texts = ["a cat", "a rocket at night", ""]
        assert cosines(there.encode_texts(texts), here.encode_texts(texts)).min() > 0.999


@pytest.mark.cuda
def test_many_threads_may_use_one_gpu(originals: Path) -> None:
    need_gpu()
    encoder = MiniEncoder(compute=ON_GPU)
    photos = 10 * prepared(encoder, originals)
    expected = encoder.encode_images(photos)
    with ThreadPoolExecutor(4) as pool:
        for rows in pool.map(encoder.encode_images, [photos] * 8):
            np.testing.assert_allclose(rows, expected, atol=1e-4)


@pytest.mark.cuda
def test_a_gpu_that_others_fill_gets_smaller_batches(originals: Path) -> None:
    need_gpu()
    torch, messages = load_torch(), []
    encoder = MiniEncoder(compute=ON_GPU, log=messages.append)
    photos = 20 * prepared(encoder, originals)
    expected = encoder.encode_images(photos)
    torch.cuda.empty_cache()
    held = torch.cuda.memory_reserved() + (64 << 20)
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(held / total)
    try:
        assert cosines(encoder.encode_images(photos), expected).min() > 0.999
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert encoder.device == "cuda" and not messages


@pytest.mark.cuda
def test_throughput_measures_the_gpu(run: Run) -> None:
    need_gpu()
    measured = run(
        *("benchmark", "throughput", "--device", "cuda", "--megapixels", 2, "--photos", 32),
        *("--repeats", 1, "--no-peers", "--json"),
    ).json
    assert measured["device"].startswith("cuda (")
    ways = {speed["way"] for speed in measured["speeds"]}
    assert {"decode", "encode", "index"} <= ways
    if nvjpeg_decoder("cuda") is not None:
        assert {"decode, by the GPU", "decode, by the CPU"} <= ways
