"""The commands `retrieval benchmark …`: parse, measure, print.

Each also runs alone as `python -m benchmarks.NAME`; what measures is imported when it runs.
"""

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from benchmarks import cluster_command, recall_command, serve_command
from benchmarks.options import JsonOption, ModelOption, PlotOption, SplitOption
from retrieval.commands.main import Commands, run
from retrieval.commands.options import ImagesOption, SkipBadOption
from retrieval.output.terminal import print_message, print_result, progress_line

app = typer.Typer(
    cls=Commands, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False
)


@app.callback()
def benchmark() -> None:
    """Measure recall and speed on your photos or on data sets."""


app.command()(recall_command.recall)


@app.command()
def search(
    dataset: Annotated[
        Path,
        typer.Argument(
            metavar="DATASET",
            help="Captioned photos, as for `recall`; made ones like them make up the sizes.",
        ),
    ],
    split: SplitOption = "all",
    sizes: Annotated[
        str, typer.Option(metavar="N,N…", help="Numbers of vectors, from 100 to 100M.")
    ] = "10k,100k",
    kind: Annotated[
        list[str] | None,
        typer.Option(
            "--type",
            metavar="T",
            help="A kind of `retrieval index --vectors`: exact, hnsw, ivf, ivf-pq; or another "
            "library: hnswlib, usearch, lancedb, autofaiss (repeatable). Default: all.",
        ),
    ] = None,
    model: Annotated[
        str, typer.Option(metavar="M", help="As in `retrieval index --model`.")
    ] = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the photos and the queries.")] = 0,
    as_json: JsonOption = False,
    plot: PlotOption = None,
) -> None:
    """Measure searches of large indexes: time, recall and size.

    Each kind of vectors is searched alone, through the Python API, in folders and by the command.
    Libraries that one might use instead are set to find 99% of the exact first ten, if they can.
    The result shows which kind auto takes, too. 1M vectors take an hour and 5 GB, 10M a day and
    50 GB.
    """
    from benchmarks import plots, search_report
    from benchmarks import search as benchmark
    from retrieval.datasets.captioned import read_captioned

    plots.check(plot)
    wanted = benchmark.parse_sizes(sizes)
    found = read_captioned(dataset, split, log=print_message)
    measured = benchmark.measure(
        found, wanted, kind or (), model, seed, print_message, progress_line()
    )
    print_result(
        json.dumps(search_report.as_json(measured), indent=2)
        if as_json
        else search_report.as_table(measured)
    )
    if plot is not None:
        plots.search(measured, plot)
        print_message(f"Chart: {plot}")


@app.command()
def fusion(
    dataset: Annotated[
        Path,
        typer.Argument(
            metavar="DATASET", help="Photos with two captions or more, as for `recall`."
        ),
    ],
    split: SplitOption = "all",
    model: Annotated[
        str, typer.Option(metavar="M", help="As in `retrieval index --model`.")
    ] = "auto",
    images: ImagesOption = None,
    skip_bad: SkipBadOption = False,
    as_json: JsonOption = False,
    plot: PlotOption = None,
) -> None:
    """Measure what attention fusion gains.

    It fuses photos with captions, and example photos with words. One caption of each photo is
    stored with it, the others are the queries. Of the stored captions none is wrong, 30% are
    swapped, or 50% are missing. The fixed weights for comparison are chosen on the split val
    if there is one, else on the measured photos.
    """
    from benchmarks import fusion as benchmark
    from benchmarks import plots
    from retrieval.datasets.captioned import read_captioned, select_split

    plots.check(plot)
    whole = read_captioned(dataset, "all", images, skip_bad, print_message)
    found = select_split(whole, split)
    val = None
    if split != "val" and any(photo.split == "val" for photo in whole.photos):
        val = select_split(whole, "val")
    fused = benchmark.measure(found, val, model, skip_bad, print_message, progress_line())
    print_result(
        json.dumps(benchmark.as_json(fused), indent=2) if as_json else benchmark.as_table(fused)
    )
    if plot is not None:
        plots.fusion(fused, plot)
        print_message(f"Chart: {plot}")


@app.command()
def relevance(
    dataset: Annotated[
        Path,
        typer.Argument(
            metavar="DATASET", help="Captioned photos that relevance was not fitted on."
        ),
    ],
    split: SplitOption = "all",
    model: Annotated[
        str, typer.Option(metavar="M", help="As in `retrieval index --model`.")
    ] = "auto",
    images: ImagesOption = None,
    skip_bad: SkipBadOption = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the galleries and the queries.")] = 0,
    as_json: JsonOption = False,
    plot: PlotOption = None,
) -> None:
    """Measure whether relevance can be trusted.

    Of the hits with 30% relevance, three in ten should match. The queries are captions, and
    names of one or two things, in galleries of several sizes. Half of them have no matching
    photo.
    """
    from benchmarks import plots
    from benchmarks import relevance as benchmark
    from retrieval.datasets.captioned import read_captioned

    plots.check(plot)
    captioned = read_captioned(dataset, split, images, skip_bad, print_message)
    found = benchmark.measure_set(captioned, model, seed, skip_bad, print_message, progress_line())
    print_result(
        json.dumps(found, indent=2, default=benchmark.as_json)
        if as_json
        else benchmark.as_text(found)
    )
    if plot is not None:
        shown = {name: found[name] for name in ("all hits", "first hits")}
        benchmark.draw_diagram(plot, shown)
        print_message(f"Chart: {plot}")


@app.command()
def throughput(
    model: ModelOption = "mini",
    engine: Annotated[
        Literal["auto", "torch", "openvino"], typer.Option(help="As in `retrieval index`.")
    ] = "auto",
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="As in `retrieval index`.")
    ] = "auto",
    compile_model: Annotated[
        bool, typer.Option("--compile", help="As in `retrieval index`.")
    ] = False,
    megapixels: Annotated[
        list[float] | None,
        typer.Option(
            min=0.01, max=200, help="Size of the photos (repeatable). Default: 0.2, 2 and 12."
        ),
    ] = None,
    photos: Annotated[
        int, typer.Option(min=32, help="Number of photos of the smallest size.")
    ] = 256,
    repeats: Annotated[int, typer.Option(min=1, help="Number of runs; the median counts.")] = 3,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Threads that decode photos. Default: one per core.")
    ] = None,
    sources: Annotated[
        Path | None,
        typer.Option("--from", metavar="DIR", help="Folder of JPEG photos to make them from."),
    ] = None,
    peers: Annotated[bool, typer.Option(help="Also measure how other programs do it.")] = True,
    as_json: JsonOption = False,
    plot: PlotOption = None,
) -> None:
    """Measure photos per second.

    It measures decoding, encoding, whole index runs, and what other programs do.
    """
    from benchmarks import plots
    from benchmarks import throughput as benchmark
    from retrieval import Compute

    plots.check(plot)
    options = benchmark.ThroughputOptions(
        model=model,
        compute=Compute(engine, device, compile_model),
        megapixels=sorted(megapixels or benchmark.MEGAPIXELS),
        photos=photos,
        repeats=repeats,
        workers=workers,
        sources=sources,
        with_peers=peers,
    )
    found = benchmark.measure(options, print_message)
    print_result(
        json.dumps(benchmark.as_json(found), indent=2) if as_json else benchmark.as_table(found)
    )
    if plot is not None:
        plots.throughput(found, plot)
        print_message(f"Chart: {plot}")


@app.command()
def startup(
    model: ModelOption = "mini",
    photos: Annotated[int, typer.Option(min=1, help="Number of photos in the index.")] = 7000,
    repeats: Annotated[int, typer.Option(min=1, help="Number of runs; the median counts.")] = 5,
    as_json: JsonOption = False,
    plot: PlotOption = None,
) -> None:
    """Measure time and memory of searches.

    From a cold start, and in a running process.
    """
    from benchmarks import plots
    from benchmarks import startup as benchmark

    plots.check(plot)
    found = benchmark.measure(model, photos, repeats)
    text = json.dumps(benchmark.as_json(found), indent=2) if as_json else benchmark.as_table(found)
    print_result(text)
    if plot is not None:
        plots.startup(found, plot)
        print_message(f"Chart: {plot}")


app.command()(serve_command.serve)
app.command()(cluster_command.cluster)


def alone(name: str) -> None:
    """Run one benchmark as its own program; every error is one sentence."""
    run(lambda: app([name, *sys.argv[1:]], prog_name="retrieval benchmark"))
