"""The commands `retrieval benchmark …`: parse, measure, print.

Each also runs alone as `python -m benchmarks.NAME`. Whatever measures is imported inside its
command, so that the command line starts fast.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import typer

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
PlotOption = Annotated[
    Path | None, typer.Option("--plot", metavar="FILE.png", help="Draw a chart, too.")
]

ModelOption = Annotated[
    str, typer.Option("--model", metavar="M", help="As `retrieval index --model` takes it.")
]


@app.callback()
def benchmark() -> None:
    """Measure recall and speed, on your photos or on the field's data sets."""


@app.command()
def recall(
    dataset: Annotated[
        Path,
        typer.Argument(
            metavar="DATASET",
            help="A folder with captions.jsonl, Karpathy's dataset_*.json, COCO's "
            "captions_*.json, Flickr's *.token.txt, a CSV of image and caption, a WebDataset tar.",
        ),
    ],
    split: Annotated[
        str, typer.Option(metavar="S", help="A split of it, several joined by +, or all.")
    ] = "all",
    model: Annotated[
        list[str] | None,
        typer.Option(metavar="M", help="As `retrieval index --model` (repeatable). Default: auto."),
    ] = None,
    ranking: Annotated[
        list[str] | None, typer.Option(metavar="R", help="A ranking (repeatable). Default: plain.")
    ] = None,
    direction: Annotated[
        Literal["both", "text-to-image", "image-to-text"], typer.Option(help="What is a query.")
    ] = "both",
    images: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The photos, if not in a usual place beside captions."),
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Go on without what is wrong in the data set.")
    ] = False,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Encode again what was kept from earlier runs.")
    ] = False,
    as_json: JsonOption = False,
    plot: PlotOption = None,
) -> None:
    """How often the right photo is among the first hits for its captions, and the other way.

    Recall@k as CLIP papers count it, in percent: the share of queries with at least one right item
    among the first k. Embeddings are kept, so a second run takes seconds.
    """
    from benchmarks import plots
    from benchmarks import recall as benchmark
    from retrieval.captioned import read_captioned

    plots.check(plot)
    found = read_captioned(dataset, split, images, skip_bad, _talk)
    _talk(f"{found.name}: {len(found.photos):,} photos, {len(found.captions):,} captions")
    runs = benchmark.measure(
        found,
        model or ["auto"],
        ranking or ["plain"],
        direction,
        skip_bad,
        rebuild,
        _talk,
        telling(),
    )
    _say(json.dumps(benchmark.as_json(runs), indent=2) if as_json else benchmark.as_table(runs))
    if plot is not None:
        plots.recall(runs, plot)
        _talk(f"Chart: {plot}")


@app.command()
def search(
    dataset: Annotated[
        Path,
        typer.Argument(
            metavar="DATASET", help="Captioned photos, as for `recall`; jittered to every size."
        ),
    ],
    split: Annotated[
        str, typer.Option(metavar="S", help="A split of it, several joined by +, or all.")
    ] = "all",
    sizes: Annotated[
        str, typer.Option(metavar="N,N…", help="How many vectors: from 100 to 100M.")
    ] = "10k,100k,1M",
    kind: Annotated[
        list[str] | None,
        typer.Option(
            "--type",
            metavar="T",
            help="exact, fp16, int8, hnsw or ivf (repeatable). Default: all.",
        ),
    ] = None,
    model: Annotated[str, typer.Option(metavar="M", help="As `retrieval index --model`.")] = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Of the jitter and the queries.")] = 0,
    as_json: JsonOption = False,
    plot: PlotOption = None,
) -> None:
    """Time, recall, memory and disk of each type of index, and which one auto would take.

    Recall@10 is against exact search. 1M vectors take some minutes, 10M an hour and 60 GB.
    """
    from benchmarks import plots
    from benchmarks import search as benchmark
    from retrieval.captioned import read_captioned

    plots.check(plot)
    wanted = benchmark.parse_sizes(sizes)
    found = read_captioned(dataset, split, say=_talk)
    measured = benchmark.measure(found, wanted, kind or (), model, seed, _talk, telling())
    told = benchmark.as_json(measured)
    _say(json.dumps(told, indent=2) if as_json else benchmark.as_table(measured))
    if plot is not None:
        plots.search(measured, plot)
        _talk(f"Chart: {plot}")


@app.command()
def throughput(
    model: ModelOption = "mini",
    engine: Annotated[
        Literal["auto", "torch", "openvino"], typer.Option(help="As `retrieval index` takes it.")
    ] = "auto",
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="As `retrieval index` takes it.")
    ] = "auto",
    megapixels: Annotated[
        list[float] | None,
        typer.Option(min=0.01, max=200, help="A size (repeatable). Default: 0.2, 2 and 12."),
    ] = None,
    photos: Annotated[int, typer.Option(min=32, help="How many of the smallest size.")] = 256,
    repeats: Annotated[int, typer.Option(min=1, help="How often; the median counts.")] = 3,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Threads that decode. Default: one a core.")
    ] = None,
    sources: Annotated[
        Path | None,
        typer.Option("--from", metavar="DIR", help="JPEG photos to make them from."),
    ] = None,
    peers: Annotated[bool, typer.Option(help="Measure how other programs do it, too.")] = True,
    as_json: JsonOption = False,
    plot: PlotOption = None,
) -> None:
    """Photos a second: decoding, encoding, all of an index run, and other programs' ways."""
    from benchmarks import plots
    from benchmarks import throughput as benchmark
    from retrieval import Compute

    plots.check(plot)
    found = benchmark.measure(
        model,
        Compute(engine, device),
        sorted(megapixels or benchmark.MEGAPIXELS),
        photos,
        repeats,
        workers,
        sources,
        peers,
        _talk,
    )
    _say(json.dumps(benchmark.as_json(found), indent=2) if as_json else benchmark.as_table(found))
    if plot is not None:
        plots.throughput(found, plot)
        _talk(f"Chart: {plot}")


@app.command()
def startup(
    model: ModelOption = "mini",
    photos: Annotated[int, typer.Option(min=1, help="How many the index holds.")] = 7000,
    repeats: Annotated[int, typer.Option(min=1, help="How often; the median counts.")] = 5,
    as_json: JsonOption = False,
    plot: PlotOption = None,
) -> None:
    """Seconds and memory of a search from a cold start, and of a query in a running process."""
    from benchmarks import plots
    from benchmarks import startup as benchmark

    plots.check(plot)
    found = benchmark.measure(model, photos, repeats)
    _say(json.dumps(benchmark.as_json(found), indent=2) if as_json else benchmark.as_table(found))
    if plot is not None:
        plots.startup(found, plot)
        _talk(f"Chart: {plot}")


def telling() -> Callable[[str, int, int], None]:
    """A line that is written over on a terminal, a line every ten seconds elsewhere."""
    last = time.monotonic()

    def tell(what: str, done: int, total: int) -> None:
        nonlocal last
        terminal = sys.stderr.isatty()
        if time.monotonic() - last >= (0.2 if terminal else 10):
            last = time.monotonic()
            line = f"{done:,} of {total:,} {what}"
            if terminal:
                sys.stderr.write(f"\r{line:<50}" + ("\n" if done == total else ""))
                sys.stderr.flush()
            else:
                _talk(line)

    return tell


def _say(text: str, err: bool = False) -> None:
    """Print text that may hold names from files: nothing in it can steer the terminal."""
    typer.echo(
        "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text),
        err=err,
    )


def _talk(sentence: str) -> None:
    _say(sentence, err=True)


def alone(name: str) -> None:
    """Run one benchmark as a program of its own; every error is one sentence."""
    from indexes.errors import RetrievalError

    try:
        app([name, *sys.argv[1:]], prog_name="retrieval benchmark")
    except RetrievalError as error:
        _talk(f"Error: {error}")
        sys.exit(1)
