"""The command `retrieval benchmark recall`: parse, measure, print.

What is measured: `recall` on data sets, `index_recall` on an index in Milvus.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from benchmarks.options import JsonOption, PlotOption, SplitOption
from retrieval.commands.options import ImagesOption, SkipBadOption
from retrieval.output.terminal import print_message, print_result, progress_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.recall import Run


def recall(
    dataset: Annotated[
        str,
        typer.Argument(
            metavar="DATASET",
            help="A folder with captions.jsonl, Karpathy's dataset_*.json, COCO's "
            "captions_*.json, Flickr's *.token.txt, a CSV of image and caption, a WebDataset tar, "
            "an indexed folder with captions, embeddings as for `import-embeddings`, or "
            "milvus://HOST:PORT/NAME.",
        ),
    ],
    split: SplitOption = "all",
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="M", help="As in `retrieval index --model` (repeatable). Default: auto."
        ),
    ] = None,
    ranking: Annotated[
        list[str] | None,
        typer.Option(metavar="R", help="As in `search --ranking` (repeatable). Default: plain."),
    ] = None,
    index_type: Annotated[
        list[str] | None,
        typer.Option(metavar="T", help="exact, hnsw, ivf or ivf-pq (repeatable). Default: exact."),
    ] = None,
    direction: Annotated[
        Literal["both", "text-to-image", "image-to-text"],
        typer.Option(help="Which are the queries."),
    ] = "both",
    images: ImagesOption = None,
    skip_bad: SkipBadOption = False,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Encode again instead of using stored embeddings.")
    ] = False,
    as_json: JsonOption = False,
    plot: PlotOption = None,
) -> None:
    """Measure recall@k of photos and captions.

    Captions have to find their photo, and photos their captions. Recall@k as CLIP papers use
    it, in percent: the share of queries with at least one right item among the first k. What an
    approximate index does not return counts as last. Embeddings are stored, so a second run
    takes seconds. Embeddings of your own are taken as they are; those of captions, if there are
    any, are the queries. An index in Milvus is searched as it is, for its captions' photos.
    """
    from benchmarks import index_recall, plots
    from benchmarks import recall as benchmark
    from indexes.milvus.place import is_cluster
    from retrieval.datasets.captioned import CaptionedSet, read_captioned
    from retrieval.datasets.embedded import EmbeddedSet, is_embedded, read_embedded
    from retrieval.errors import QueryError

    plots.check(plot)
    options = benchmark.RecallOptions(
        models=model or ["auto"],
        rankings=ranking or ["plain"],
        index_types=index_type or ["exact"],
        direction=direction,
        skip_bad=skip_bad,
        rebuild=rebuild,
    )
    if is_cluster(dataset):
        _print(index_recall.measure(dataset, options, print_message), as_json, plot)
        return
    where = Path(dataset)
    found: CaptionedSet | EmbeddedSet
    if is_embedded(where):
        if split != "all" or images is not None:
            raise QueryError(f"{dataset} holds embeddings. Leave out --split and --images.")
        found = read_embedded(where, print_message)
        whole = found.captioned
    else:
        found = whole = read_captioned(where, split, images, skip_bad, print_message)
    print_message(f"{whole.name}: {len(whole.photos):,} photos, {len(whole.captions):,} captions")
    _print(benchmark.measure(found, options, print_message, progress_line()), as_json, plot)


def _print(runs: "Sequence[Run]", as_json: bool, plot: Path | None) -> None:
    from benchmarks import plots
    from benchmarks import recall as benchmark

    print_result(
        json.dumps(benchmark.as_json(runs), indent=2) if as_json else benchmark.as_table(runs)
    )
    if plot is not None:
        plots.recall(runs, plot)
        print_message(f"Chart: {plot}")
