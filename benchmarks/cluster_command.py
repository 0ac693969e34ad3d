"""The command `retrieval benchmark cluster`: parse, measure, print. What is measured: `cluster`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.options import JsonOption
from retrieval.output.terminal import print_message, print_result


def cluster(
    dataset: Annotated[
        Path | None,
        typer.Argument(
            metavar="DATASET",
            help="Captioned photos, as for `recall`, for --milvus: made vectors are like theirs.",
        ),
    ] = None,
    milvus: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="A Milvus server to load, milvus://HOST:PORT."),
    ] = None,
    vectors: Annotated[int, typer.Option(min=1000, help="How many vectors it gets.")] = 1_000_000,
    kind: Annotated[
        list[str] | None,
        typer.Option(
            "--type",
            metavar="T",
            help="A kind of `retrieval index --milvus-index` (repeatable). Default: HNSW.",
        ),
    ] = None,
    workers: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Encode photos with so many workers (repeatable)."),
    ] = None,
    photos: Annotated[int, typer.Option(min=16, help="How many photos they get.")] = 512,
    sleepers: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Do tasks that only sleep with so many workers (repeatable)."),
    ] = None,
    ray: Annotated[str, typer.Option(metavar="ADDRESS", help="As of `retrieval index`.")] = "local",
    model: Annotated[str, typer.Option(metavar="M", help="As of `retrieval index`.")] = "mini",
    as_json: JsonOption = False,
) -> None:
    """Measure an index on many machines: Milvus's searches, Ray's workers.

    Needs the extra `cluster`. Without options, tasks that only sleep show the pipeline's own cost.
    """
    from benchmarks import cluster as benchmark
    from benchmarks import milvus_speed, worker_scaling
    from retrieval.errors import QueryError

    if milvus is not None and dataset is None:
        raise QueryError("Name a captioned data set, whose embeddings made vectors are near to.")
    speeds: tuple[milvus_speed.MilvusSpeed, ...] = ()
    if milvus is not None and dataset is not None:
        from retrieval.datasets.captioned import read_captioned

        captioned = read_captioned(dataset, skip_bad=True, log=print_message)
        speeds = milvus_speed.measure_milvus(
            milvus, captioned, vectors, kind or ["HNSW"], model, log=print_message
        )
    real = (
        worker_scaling.measure_photos(workers, photos, model, ray, print_message) if workers else ()
    )
    slept: tuple[worker_scaling.Scaling, ...] = ()
    if sleepers or not (milvus or workers):
        slept = worker_scaling.measure_sleeping(sleepers or worker_scaling.SLEEPERS, print_message)
    found = benchmark.Measurement(benchmark.machine(), speeds, real, slept)
    print_result(
        json.dumps(benchmark.as_json(found), indent=2) if as_json else benchmark.as_table(found)
    )
