"""`retrieval demo`."""

from pathlib import Path
from typing import Annotated

import typer

from retrieval.commands.hits import open_page, write_hits
from retrieval.commands.index import run_index
from retrieval.commands.options import ModelOption, OpenOption
from retrieval.output.terminal import print_result


def demo(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER", help="Folder for the photos, the index and the page of pictures."
        ),
    ] = Path("retrieval-demo"),
    model: ModelOption = "mini",
    show: OpenOption = False,
    serve: Annotated[
        bool, typer.Option("--serve", help="End in the page to search them on: `retrieval serve`.")
    ] = False,
) -> None:
    """Index and search a few real photos.

    They come with scikit-image and scikit-learn.
    """
    import retrieval
    from retrieval.output.text import summary

    photos = retrieval.copy_demo_photos(folder / "photos")
    print_result(f"$ retrieval index {photos} --model {model}")
    print_result(summary(run_index([photos], None, model, retrieval.Options(), quiet=False)))
    for command, hits in retrieval.run_demo(photos, folder / "gallery.html"):
        print_result(f"\n$ {command}")
        write_hits(hits, "table")
    page = (folder / "gallery.html").absolute()
    print_result(f"\nThe same with pictures: {page}")
    if serve:
        from retrieval.commands.serve import serve as run

        run(photos, port=0, show=show)
    elif show:
        open_page(page)
