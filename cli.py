"""The command line: parses, calls `retrieval`, prints. No logic of its own.

Standard output is for results, standard error for messages and
progress. Anything heavy is imported inside the
command that needs it, so that `--help` and `search` start fast.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from benchmarks.commands import ImagesOption, SkipBadOption
from benchmarks.commands import app as benchmark
from retrieval.output.terminal import print_message, print_result, progress_line

if TYPE_CHECKING:
    from retrieval import Hit, Options, Progress, Query, Report

app = typer.Typer(
    help="Find photos by describing them: text, example photos or both, on your own machine.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(benchmark, name="benchmark")

IndexOption = Annotated[
    Path | None,
    typer.Option(
        "--index",
        metavar="DIR",
        envvar="RETRIEVAL_INDEX",
        help="The index. Default: .retrieval in the first folder, or found from here upwards.",
    ),
]
KOption = Annotated[int, typer.Option("-k", min=1, help="How many photos to show.")]
EngineName = Literal["auto", "torch", "openvino"]
DeviceName = Literal["auto", "cpu", "cuda"]
Format = Literal["table", "json", "jsonl", "csv", "paths"]
FormatOption = Annotated[
    Format,
    typer.Option("--format", "-f", help="How to print the hits."),
]
NulOption = Annotated[
    bool, typer.Option("-0", "--null", help="Paths ended by NUL, for `xargs -0`.")
]
GalleryOption = Annotated[
    Path | None,
    typer.Option("--gallery", metavar="FILE", help="Write the hits as one HTML page."),
]
OpenOption = Annotated[bool, typer.Option("--open", help="Show the page in the browser.")]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="M",
        help="mini, base, better, best, multilingual, ARCH:WEIGHTS, ARCH:CHECKPOINT_FILE, "
        "hf-hub:ORG/MODEL or auto. Default: the index's own; auto for a new index.",
    ),
]
LearnOption = Annotated[
    str | None,
    typer.Option("--split", metavar="S", help="Learn from it. Default: train, else all."),
]
HeldOutOption = Annotated[
    str | None,
    typer.Option(metavar="S", help="Measure on it. Default: val, else a tenth of the photos."),
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]


@app.command()
def index(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[FOLDER]...", help="Folders of photos. Default: those it knows."),
    ] = None,
    index: IndexOption = None,
    model: ModelOption = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GLOB",
            help="Leave out names or paths like this (repeatable); kept for later runs. "
            "'' leaves nothing out any more.",
        ),
    ] = None,
    prune: Annotated[bool, typer.Option(help="Forget photos that are gone for good.")] = False,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Encode all photos again, also to change the model.")
    ] = False,
    max_megapixels: Annotated[
        float | None,
        typer.Option(min=0.001, help="Skip larger photos. Default: by free memory."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Threads that decode. Default: one a core.")
    ] = None,
    engine: Annotated[
        EngineName,
        typer.Option(help="What computes: openvino (CPU), torch, or auto, the faster one."),
    ] = "auto",
    device: Annotated[
        DeviceName, typer.Option(help="Where: cpu, cuda, or auto, what the model gains most from.")
    ] = "auto",
    compile_model: Annotated[
        bool, typer.Option("--compile", help="On a GPU: torch.compile, for very many photos.")
    ] = False,
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=4096,
            help="Photos to encode and commit together. Default: 32, on a GPU 256.",
        ),
    ] = None,
    captions: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="What is said of photos: JSON lines, JSON or CSV of image and caption "
            "(repeatable); kept for later runs, '' takes none any more.",
        ),
    ] = None,
    quiet: QuietOption = False,
) -> None:
    """Index folders of photos: run it again whenever they change."""
    import retrieval

    options = retrieval.Options(
        exclude=[pattern for pattern in exclude if pattern] if exclude else None,
        workers=workers,
        max_megapixels=max_megapixels,
        prune=prune,
        rebuild=rebuild,
        compute=retrieval.Compute(engine, device, compile_model),
        batch_size=batch_size,
        captions=[Path(file) for file in captions if file] if captions else None,
    )
    report = _index(folders or [], index, model, options, quiet)
    if not quiet:
        from retrieval.output.text import summary

        print_result(summary(report))


@app.command()
def search(
    text: Annotated[
        str | None, typer.Argument(metavar="[TEXT]", help="What to look for, in words.")
    ] = None,
    texts: Annotated[
        list[str] | None,
        typer.Option("--text", metavar="T", help="More words; T=0.5 gives them half the weight."),
    ] = None,
    images: Annotated[
        list[str] | None,
        typer.Option(
            "--image", metavar="P", help="An example photo: a path, or - for standard input."
        ),
    ] = None,
    not_texts: Annotated[
        list[str] | None, typer.Option("--not", metavar="T", help="What is not wanted.")
    ] = None,
    not_images: Annotated[
        list[str] | None, typer.Option("--not-image", metavar="P", help="A photo not like this.")
    ] = None,
    k: KOption = 10,
    min_score: Annotated[
        float | None, typer.Option(help="The lowest score (cosine, -1 to 1) to show.")
    ] = None,
    ranking: Annotated[
        Literal["auto", "plain", "nnn", "qbnorm", "templates", "expansion", "hybrid"],
        typer.Option(help="How hits are ordered where the query is in words; see the README."),
    ] = "auto",
    rerank: Annotated[
        Literal["none", "match"],
        typer.Option(
            help="match orders the first 50 hits of a query in words anew, by how well each photo "
            "and the words match as a pair."
        ),
    ] = "none",
    relevance: Annotated[
        Literal["strict", "normal", "all"],
        typer.Option(help="Leave out hits that hardly match: below 30 % or 10 % relevance."),
    ] = "all",
    within: Annotated[
        list[Path] | None,
        typer.Option("--in", metavar="SUBFOLDER", help="Only photos in here (repeatable)."),
    ] = None,
    after: Annotated[
        str | None, typer.Option(metavar="DATE", help="Taken on this day or later: 2024-05-17.")
    ] = None,
    before: Annotated[
        str | None, typer.Option(metavar="DATE", help="Taken before this day.")
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show how each hit's score was computed.")
    ] = False,
    form: FormatOption = "table",
    nul: NulOption = False,
    gallery: GalleryOption = None,
    show: OpenOption = False,
    index: IndexOption = None,
    index_first: Annotated[
        bool, typer.Option("--index-first", help="Bring the index up to date, or make it, first.")
    ] = False,
) -> None:
    """Find photos by words, example photos or both.

    Every term may end in =WEIGHT: --text "at night"=0.5, --image beach.jpg=2.
    """
    import retrieval
    from retrieval.output.text import explanation, verdict
    from retrieval.query import parse_date, parse_terms
    from retrieval.search.hits import cut

    query = retrieval.Query(
        parse_terms(
            [*([text] if text is not None else []), *(texts or [])],
            images or [],
            not_texts or [],
            not_images or [],
        ),
        within=tuple(within or ()),
        after=parse_date(after, "--after") if after else None,
        before=parse_date(before, "--before") if before else None,
        min_score=min_score,
    )
    where = _index_to_search(index, index_first)
    with retrieval.open(where) as photos:
        hits = photos.ask(query, k, ranking, rerank)
    shown = cut(hits, relevance)
    _show(shown, query, form, nul, gallery, show)
    if explain and form == "table":
        print_result(explanation(query, shown))
    for sentence in verdict(query, hits, shown, relevance):
        print_message(sentence)


@app.command()
def similar(
    photo: Annotated[str, typer.Argument(metavar="PHOTO", help="A path, or - for standard input.")],
    k: KOption = 10,
    form: FormatOption = "table",
    nul: NulOption = False,
    gallery: GalleryOption = None,
    show: OpenOption = False,
    index: IndexOption = None,
) -> None:
    """Find photos that look like one, which is itself left out."""
    import retrieval

    query = retrieval.Query((retrieval.Term("photo", photo),))
    with retrieval.open(index) as photos:
        hits = photos.similar(photo, k)
    _show(hits, query, form, nul, gallery, show)


@app.command()
def info(
    index: IndexOption = None,
    skipped: Annotated[bool, typer.Option("--skipped", help="List every skipped file.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Show what is indexed, what was skipped and why, and what changed on disk since."""
    import retrieval
    from retrieval.output.text import status_json, status_text

    with retrieval.open(index) as photos:
        status = photos.status()
    print_result(status_json(status) if as_json else status_text(status, skipped))


@app.command()
def remove(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[PATH]...", help="Photos or folders to forget."),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Delete the whole index. Photos stay.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    index: IndexOption = None,
) -> None:
    """Forget photos, or the whole index. Photo files are never touched."""
    from indexes.staged_rebuild import delete
    from retrieval import QueryError, api

    if everything == bool(paths):
        raise QueryError("Name the photos or folders to forget, or --all for the whole index.")
    where = api.locate(index)
    if everything:
        if not yes and not typer.confirm(f"Delete the index {where}? (Your photos stay.)"):
            raise typer.Exit(1)
        delete(where)
        print_result(f"Deleted the index {where}.")
        return
    count = api.remove(paths or [], where)
    print_result(
        f"Forgot {count} file(s). They come back at the next `retrieval index` unless it is told "
        "to --exclude them."
    )


@app.command()
def fuse(index: IndexOption = None) -> None:
    """Fuse photos with their captions again, after `train-fusion`. Nothing is encoded again."""
    from retrieval import api

    done = api.fuse(index)
    print_result(
        f"Fused {done.photos} photo(s) with their captions by {done.fusion} in {done.folder}."
    )


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="Where to put the photos and the gallery.")] = Path(
        "retrieval-demo"
    ),
    model: ModelOption = "mini",
    show: OpenOption = False,
) -> None:
    """Index a few real photos that come with scikit-image and scikit-learn, and search them."""
    from retrieval import Options
    from retrieval.demo import QUERIES, copy_photos, run_queries
    from retrieval.output.text import summary

    photos = copy_photos(folder / "photos")
    print_result(f"$ retrieval index {photos} --model {model}")
    print_result(summary(_index([photos], None, model, Options(), quiet=False)))
    for command, hits in run_queries(photos, QUERIES, folder / "gallery.html"):
        print_result(f"\n$ {command}")
        _write(hits, "table", False)
    page = (folder / "gallery.html").absolute()
    print_result(f"\nThe same with pictures: {page}")
    if show:
        _open_page(page)


@app.command()
def train(
    dataset: Annotated[
        Path,
        typer.Argument(
            metavar="DATASET", help="Captioned photos, in any format of `benchmark recall`."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the new model.")],
    model: Annotated[
        str, typer.Option(metavar="M", help="Where to start: mini, or a folder that this made.")
    ] = "mini",
    tune: Annotated[
        Literal["heads", "top", "all"],
        typer.Option(help="What learns: a minute, an hour, or a GPU's work for 6,000 photos."),
    ] = "heads",
    epochs: Annotated[int, typer.Option(min=1, help="At most so many times over all photos.")] = 16,
    split: LearnOption = None,
    held_out: HeldOutOption = None,
    images: ImagesOption = None,
    skip_bad: SkipBadOption = False,
    texts: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="More texts, a line each, whose meaning is to be kept."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Another hyper-parameter (repeatable)."),
    ] = None,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where it runs.")] = "auto",
    seed: Annotated[int, typer.Option(help="The same seed gives the same model.")] = 0,
    quiet: QuietOption = False,
) -> None:
    """Adapt the built-in model to captioned photos; then `retrieval index --model DIR`.

    Run the same command again to go on after an interruption.
    """
    from retrieval.training.config import recipe_of
    from retrieval.training.mini import train

    progress = (lambda *_: None) if quiet else progress_line()
    recipe = recipe_of(tune, epochs, settings or [])
    log = (lambda _: None) if quiet else print_message
    try:
        done = train(
            dataset, out, model, recipe, split, held_out, images, skip_bad, texts, device, seed,
            log, progress,
        )  # fmt: skip
    except KeyboardInterrupt:
        print_message("\nStopped. Run the same command again to go on after the last whole epoch.")
        raise typer.Exit(130) from None
    before, after = (" / ".join(f"{r:.1f}" for r in rs) for rs in (done.before, done.after))
    print_result(
        f"The model in {done.folder}: R@1 / R@5 / R@10 {after} on photos that were held out, "
        f"{before} before training ({done.epochs} epochs)."
    )
    if done.curve:
        print_result(f"Curve: {done.curve}")
    print_result(f"Use it: retrieval index FOLDER --model {done.folder}")


@app.command()
def train_fusion(
    dataset: Annotated[
        Path,
        typer.Argument(
            metavar="DATASET",
            help="Photos with two captions or more, in any format of `benchmark recall`.",
        ),
    ],
    model: Annotated[str, typer.Option(metavar="M", help="As `retrieval index --model`.")] = "auto",
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Default: where searches look for it."),
    ] = None,
    split: LearnOption = None,
    held_out: HeldOutOption = None,
    images: ImagesOption = None,
    skip_bad: SkipBadOption = False,
    seed: Annotated[int, typer.Option(help="The same seed gives the same fusion.")] = 0,
    quiet: QuietOption = False,
) -> None:
    """Learn how to weigh photos against their captions, examples against words, and what matches.

    Takes minutes on a CPU. Then `retrieval fuse` brings an index to it.
    """
    from retrieval.training.fusion_run import train_fusion

    progress = (lambda *_: None) if quiet else progress_line()
    log = (lambda _: None) if quiet else print_message
    done = train_fusion(dataset, model, out, split, held_out, images, skip_bad, seed, log, progress)
    print_result(
        f"The fusion in {done.file}: R@1 {done.after:.1f} on photos that were held out, over "
        f"right, swapped and missing captions; the plain mean {done.before:.1f}."
    )
    before, after = done.reranked
    print_result(
        f"Its matching beside it: R@1 and R@5 on average {before:.1f}, re-ranked by it {after:.1f}."
    )
    if done.curve:
        print_result(f"Curve: {done.curve}")
    print_result("Bring an index to it: retrieval fuse --index DIR")


# What the commands share ---------------------------------------------------------------------


def _index(
    folders: list[Path],
    index: Path | None,
    model: str | None,
    options: "Options",
    quiet: bool,
) -> "Report":
    import retrieval

    log = (lambda _: None) if quiet else print_message
    with _progress(quiet) as progress:
        try:
            return retrieval.index(
                *folders, index=index, model=model, options=options, progress=progress, log=log
            )
        except KeyboardInterrupt:
            print_message(
                "\nStopped. What was indexed is kept; run the same command again to go on."
            )
            raise typer.Exit(130) from None


def _index_to_search(index: Path | None, index_first: bool) -> Path:
    """The index to search, made or brought up to date if the user wants it."""
    import retrieval
    from retrieval import api

    folder = Path.cwd()
    try:
        where = api.locate(index)
        folders = []
    except retrieval.IndexMissingError as missing:
        if index is not None:
            raise  # whose photos should be in it is not ours to guess
        where, folders = folder / ".retrieval", [folder]
        if not index_first:
            if not (sys.stdin.isatty() and sys.stderr.isatty()):
                raise retrieval.IndexMissingError(
                    f"{missing} Or add --index-first to this search."
                ) from None
            print_message(str(missing))
            if not typer.confirm(f"Index the photos in {folder} now?", default=True, err=True):
                raise typer.Exit(1) from None
            index_first = True
    if index_first:
        from retrieval.output.text import summary

        print_message(summary(_index(folders, where, None, retrieval.Options(), quiet=False)))
    return where


def _show(
    hits: list["Hit"], query: "Query", form: Format, nul: bool, gallery: Path | None, show: bool
) -> None:
    _write(hits, "paths" if nul else form, nul)
    if gallery is None and not show:
        return
    from retrieval.output.gallery import Section, last_gallery, write_gallery

    page = write_gallery(gallery or last_gallery(), [Section(query.terms, hits)])
    print_message(f"Gallery: {page}")
    if show:
        _open_page(page)


def _write(hits: list["Hit"], form: Format, nul: bool) -> None:
    from retrieval.output.text import render

    sys.stdout.flush()
    sys.stdout.buffer.write(render(hits, form, nul))
    sys.stdout.buffer.flush()


def _open_page(page: Path) -> None:
    import webbrowser

    if not webbrowser.open(page.as_uri()):
        print_message(f"No browser could be started; open {page} yourself.")


@contextmanager
def _progress(quiet: bool) -> Iterator[Callable[["Progress"], None]]:
    """A bar on a terminal, a line every ten seconds elsewhere, nothing if quiet."""
    if quiet:
        yield lambda _: None
    elif sys.stderr.isatty():
        with _bar() as update:
            yield update
    else:
        last = time.monotonic()

        def line(now: "Progress") -> None:
            nonlocal last
            if time.monotonic() - last >= 10:
                last = time.monotonic()
                what = "files" if now.what == "photos" else "captioned photos"
                print_message(f"{now.done} of {now.total} {what}, {now.skipped} skipped")

        yield line


@contextmanager
def _bar() -> Iterator[Callable[["Progress"], None]]:
    from rich import progress as bars
    from rich.console import Console

    with bars.Progress(
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TextColumn("{task.fields[rate]}"),
        bars.TimeRemainingColumn(),
        bars.TextColumn("{task.fields[skipped]}"),
        console=Console(stderr=True),
        transient=True,
    ) as bar:
        task = bar.add_task("Indexing", total=None, rate="looking for photos", skipped="")

        def update(now: "Progress") -> None:
            what = "Indexing" if now.what == "photos" else "Captions"
            if bar.tasks[0].description != what:
                bar.reset(task, description=what)
            speed = bar.tasks[0].speed
            bar.update(
                task,
                total=now.total,
                completed=now.done,
                rate=f"{speed:.0f}/s" if speed else "",
                skipped=f"{now.skipped} skipped" if now.skipped else "",
            )

        yield update


def main() -> None:
    """Run the command line; every error is one sentence, exit code 1 (2 for usage)."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed by whoever started this
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115
    # typer converts arguments by pydantic, which would look for plugins in all that is installed.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    try:
        app()
    except KeyboardInterrupt:
        _fail("Stopped.", 130)
    except BrokenPipeError:  # `retrieval search … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        if os.environ.get("RETRIEVAL_DEBUG"):
            raise
        where = f"{os.fsdecode(error.filename)}: " if error.filename else ""
        _fail(
            f"{where}{error.strerror or error}. Check the path, its permissions and the disk, then "
            "run the same command again.",
            1,
        )
    except Exception as error:
        from indexes.errors import RetrievalError

        if isinstance(error, RetrievalError):
            _fail(str(error), 1)
        if os.environ.get("RETRIEVAL_DEBUG"):
            raise
        _fail(
            f"Something went wrong that should not ({type(error).__name__}: {error}). Nothing that "
            "was committed is lost. RETRIEVAL_DEBUG=1 shows where; please report it.",
            1,
        )


def _fail(sentence: str, code: int) -> None:
    print_message(f"Error: {sentence}" if code == 1 else sentence)
    sys.exit(code)


if __name__ == "__main__":
    main()
