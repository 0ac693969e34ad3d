"""How long it takes to compute recall from embeddings: all metrics, both directions, intervals.

    python -m benchmarks.evaluation_speed

The embeddings are random, five captions per photo; the rankings are `plain` and `nnn`. Each size
runs in a process of its own. Printed are wall seconds and peak resident memory; `before` is the
memory before scoring: Python, numpy and the embeddings.
"""

import multiprocessing
import resource
import time
from concurrent.futures import ProcessPoolExecutor

import numpy as np

from retrieval.evaluation.bootstrap import summarise
from retrieval.evaluation.metrics import inner_products, rank
from retrieval.fusion.attention import normalise
from retrieval.ranking import methods

SIZES = (1000, 5000)
_CAPTIONS, _DIM, _BANK = 5, 512, 1000


def measure(photos: int, name: str) -> tuple[float, float, float]:
    """(seconds, peak MiB, MiB before) of one ranking, to be called in a fresh process."""
    random = np.random.default_rng(0)
    rows = normalise(random.standard_normal((photos, _DIM), np.float32))
    near = np.repeat(rows, _CAPTIONS, 0)
    texts = normalise(near + 2.5 * normalise(random.standard_normal(near.shape, np.float32)))
    bank = normalise(random.standard_normal((_BANK, _DIM), np.float32))
    photo_ids = np.arange(photos)
    caption_owners = np.repeat(photo_ids, _CAPTIONS)
    before = _peak_mebibytes()
    started = time.perf_counter()
    gallery, queries = methods.transform(methods.ranking(name), rows, texts, bank)
    summarise(rank(inner_products(queries, gallery), caption_owners, photo_ids))
    summarise(rank(inner_products(rows, texts), photo_ids, caption_owners))
    return time.perf_counter() - started, _peak_mebibytes(), before


def _peak_mebibytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    print("photos  captions  ranking   seconds  peak MiB  before")
    for photos in SIZES:
        for name in ("plain", "nnn"):
            spawn = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(1, mp_context=spawn) as process:
                seconds, peak, before = process.submit(measure, photos, name).result()
            print(
                f"{photos:>6,}{_CAPTIONS * photos:>10,}  {name:<8}{seconds:>9.2f}"
                f"{peak:>10.0f}{before:>8.0f}"
            )


if __name__ == "__main__":
    main()
