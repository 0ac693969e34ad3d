"""`retrieval demo`."""

from pathlib import Path
from typing import Annotated

import typer

from retrieval.commands.hits import open_page, write_hits
from retrieval.commands.index import run_index
from retrieval.commands.options import ModelOption, OpenOption
from retrieval.output.terminal import print_result


def demo(
    folder: Annotated[Path, typer.Argument(help="Where to put the photos and the gallery.")] = Path(
        "retrieval-demo"
    ),
    model: ModelOption = "mini",
    show: OpenOption = False,
) -> None:
    """Index a few real photos that come with scikit-image and scikit-learn, and search them."""
    from retrieval import Options
    from retrieval.demo import QUERIES, copy_demo_photos, run_queries
    from retrieval.output.text import summary

    photos = copy_demo_photos(folder / "photos")
    print_result(f"$ retrieval index {photos} --model {model}")
    print_result(summary(run_index([photos], None, model, Options(), quiet=False)))
    for command, hits in run_queries(photos, QUERIES, folder / "gallery.html"):
        print_result(f"\n$ {command}")
        write_hits(hits, "table", False)
    page = (folder / "gallery.html").absolute()
    print_result(f"\nThe same with pictures: {page}")
    if show:
        open_page(page)
