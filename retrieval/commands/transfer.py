"""`retrieval import-embeddings` and `export`: embeddings from other programs, and for them."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from retrieval.commands.options import IndexOption, QuietOption, TrustOption
from retrieval.output.progress_bar import progress_bar
from retrieval.output.terminal import print_message, print_result


def import_embeddings(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE",
            help="A .npy of image embeddings with a .parquet, .csv or .jsonl of paths and captions "
            "beside it; a folder with img_emb/, text_emb/ and metadata/, as clip-retrieval and "
            "`retrieval export` write it; or a tar, or a folder of tars, with one .npy an image.",
        ),
    ],
    index: Annotated[
        Path | None,
        typer.Option(
            "--index",
            metavar="DIR",
            help="Folder of the new index. Default: .retrieval in the folder of --folder.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="M",
            help="The model that made the embeddings: ARCH:WEIGHTS as open_clip names it, or as in "
            "`retrieval index --model`. Default: the one that an export names.",
        ),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--folder",
            metavar="PHOTOS",
            help="The folder that the photos are in; not all have to be there.",
        ),
    ] = None,
    quiet: QuietOption = False,
) -> None:
    """Make an index of embeddings that another program computed. No photo is encoded."""
    import retrieval
    from retrieval.output.text import import_summary

    log = (lambda _: None) if quiet else print_message
    with progress_bar(quiet) as progress:
        report = retrieval.import_embeddings(source, index, model, folder, progress, log)
    if not quiet:
        print_result(import_summary(report))


def export(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="A new folder for the embeddings.")
    ],
    index: IndexOption = None,
    dtype: Annotated[
        Literal["float32", "float16"],
        typer.Option(help="The numbers; float16 takes half the space."),
    ] = "float32",
    trust: TrustOption = False,
) -> None:
    """Write the embeddings, paths and captions of an index for other programs.

    The layout is that of clip-retrieval: .npy files, and a Parquet table (JSON lines where pyarrow
    is not installed).
    """
    import retrieval

    done = retrieval.export(folder, index, dtype, trust)
    print_result(
        f"Exported {done.photos:,} photo(s), {done.captioned:,} with a caption embedding, by "
        f"{done.model.name} to {done.folder}; paths and captions are in {done.table}."
    )
