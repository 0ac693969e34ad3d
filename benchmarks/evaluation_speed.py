"""How long recall takes from embeddings that are at hand: all measures, both directions, intervals.

    python -m benchmarks.evaluation_speed

Photos with five captions each, their embeddings drawn by a seed; plain and `nnn`. Each size in a
process of its own. Wall seconds and the peak of resident memory, of which `before` was there before
anything was scored: Python, numpy and the embeddings.
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
    """(seconds, peak MiB, MiB before) of one ranking; of a process that has done nothing else."""
    random = np.random.default_rng(0)
    rows = normalise(random.standard_normal((photos, _DIM), np.float32))
    near = np.repeat(rows, _CAPTIONS, 0)
    texts = normalise(near + 2.5 * normalise(random.standard_normal(near.shape, np.float32)))
    bank = normalise(random.standard_normal((_BANK, _DIM), np.float32))
    own, every = np.repeat(np.arange(photos), _CAPTIONS), np.arange(photos)
    before = _peak()
    started = time.perf_counter()
    gallery, queries = methods.transform(methods.ranking(name), rows, texts, bank)
    summarise(rank(inner_products(queries, gallery), own, every))
    summarise(rank(inner_products(rows, texts), every, own))
    return time.perf_counter() - started, _peak(), before


def _peak() -> float:
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
