"""`retrieval search` and `retrieval similar`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from retrieval.commands.hits import open_page, write_hits
from retrieval.commands.index import run_index
from retrieval.commands.options import (
    Format,
    FormatOption,
    GalleryOption,
    IndexOption,
    KOption,
    NulOption,
    OpenOption,
    TrustOption,
)
from retrieval.output.terminal import print_message, print_result

if TYPE_CHECKING:
    from retrieval import Hit, Query

_DRAWN = 5  # hits, with --show


def search(
    text: Annotated[
        str | None, typer.Argument(metavar="TEXT", help="What to look for, in words.")
    ] = None,
    texts: Annotated[
        list[str] | None,
        typer.Option("--text", metavar="T", help="Another text to look for (repeatable)."),
    ] = None,
    images: Annotated[
        list[str] | None,
        typer.Option(
            "--image",
            metavar="P",
            help="An example photo: a path, or - for standard input (repeatable).",
        ),
    ] = None,
    not_texts: Annotated[
        list[str] | None,
        typer.Option("--not", metavar="T", help="What is not wanted (repeatable)."),
    ] = None,
    not_images: Annotated[
        list[str] | None,
        typer.Option(
            "--not-image", metavar="P", help="A photo like those not wanted (repeatable)."
        ),
    ] = None,
    k: KOption = 10,
    min_score: Annotated[
        float | None, typer.Option(help="The lowest score (cosine, -1 to 1) to show.")
    ] = None,
    ranking: Annotated[
        Literal["auto", "plain", "nnn", "qbnorm", "templates", "expansion", "hybrid"],
        typer.Option(help="How to order the hits of a query in words: docs/ranking.md."),
    ] = "auto",
    rerank: Annotated[
        Literal["none", "match"],
        typer.Option(
            help="match: re-rank the first 50 hits of a query in words by how well each photo and "
            "the words match."
        ),
    ] = "none",
    relevance: Annotated[
        Literal["strict", "normal", "all"],
        typer.Option(help="Leave out hits below 30% (strict) or 10% (normal) relevance."),
    ] = "all",
    within: Annotated[
        list[Path] | None,
        typer.Option("--in", metavar="FOLDER", help="Only photos in this folder (repeatable)."),
    ] = None,
    after: Annotated[
        str | None,
        typer.Option(metavar="DATE", help="Only photos taken on this day or later: 2024-05-17."),
    ] = None,
    before: Annotated[
        str | None, typer.Option(metavar="DATE", help="Only photos taken before this day.")
    ] = None,
    near: Annotated[
        str | None,
        typer.Option(
            metavar="PLACE",
            help="Only photos taken near this city, as Vienna or 'Paris, Texas', or near "
            "LATITUDE,LONGITUDE.",
        ),
    ] = None,
    near_km: Annotated[
        float, typer.Option("--within", metavar="KM", help="How far --near looks, in kilometres.")
    ] = 25.0,
    place: Annotated[
        str | None,
        typer.Option(
            metavar="PLACE", help="Only photos taken in this city, region or country: Austria."
        ),
    ] = None,
    server: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            envvar="RETRIEVAL_SERVER",
            help="Ask a running `retrieval serve`, as http://localhost:8000: the model is loaded "
            "there. A token is taken from RETRIEVAL_TOKEN.",
        ),
    ] = None,
    draw: Annotated[
        bool, typer.Option("--show", help="Draw the first hits in the terminal.")
    ] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show how each hit's score was computed.")
    ] = False,
    form: FormatOption = "table",
    nul: NulOption = False,
    gallery: GalleryOption = None,
    show: OpenOption = False,
    index: IndexOption = None,
    index_first: Annotated[
        bool, typer.Option("--index-first", help="First make the index, or bring it up to date.")
    ] = False,
    trust: TrustOption = False,
) -> None:
    """Find photos by words, example photos or both.

    Any term can end in =WEIGHT: --text "at night=0.5", --image beach.jpg=2.
    """
    import retrieval
    from retrieval.output import text as output

    query = retrieval.Query(
        retrieval.parse_terms(
            [*([text] if text is not None else []), *(texts or [])],
            images or [],
            not_texts or [],
            not_images or [],
        ),
        within=tuple(within or ()),
        after=retrieval.parse_date(after, "--after") if after else None,
        before=retrieval.parse_date(before, "--before") if before else None,
        min_score=min_score,
        near=near,
        near_km=near_km,
        place=place,
    )
    options = retrieval.SearchOptions(k, ranking, rerank)
    captions: list[str] = []
    with (
        retrieval.open(_index_to_search(index, index_first, trust), trust)
        if server is None
        else retrieval.Client(server)
    ) as asked:
        hits = asked.ask(query, options)
        shown = retrieval.filter_by_relevance(hits, relevance)
        if draw:
            captions = ["; ".join(asked.captions(hit)) for hit in shown[:_DRAWN]]
    _show(shown, query, form, nul, gallery, show)
    if explain and form == "table" and (lines := output.explain(query, shown)):
        print_result(lines)
    if draw:
        from retrieval.output import preview

        preview.draw(shown[:_DRAWN], captions)
    for sentence in output.verdict(query, hits, shown, relevance, ranking):
        print_message(sentence)


def similar(
    photo: Annotated[str, typer.Argument(metavar="PHOTO", help="A path, or - for standard input.")],
    k: KOption = 10,
    form: FormatOption = "table",
    nul: NulOption = False,
    gallery: GalleryOption = None,
    show: OpenOption = False,
    index: IndexOption = None,
    trust: TrustOption = False,
) -> None:
    """Find photos that look like a given one. The photo itself is left out."""
    import retrieval

    query = retrieval.Query((retrieval.Term("photo", photo),))
    with retrieval.open(index, trust) as photos:
        hits = photos.similar(photo, k)
    _show(hits, query, form, nul, gallery, show)


def _index_to_search(index: str | None, index_first: bool, trust: bool) -> Path:
    """The index to search; made, or brought up to date, if the user wants that."""
    import retrieval

    folder = Path.cwd()
    folders: list[Path] = []
    try:
        where = retrieval.find_index(index)
    except retrieval.IndexMissingError as missing:
        if index is not None:
            raise  # the folder to index is not ours to guess
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

        options = retrieval.Options()
        print_message(summary(run_index(folders, where, None, options, quiet=False, trust=trust)))
    return where


def _show(
    hits: list["Hit"], query: "Query", form: Format, nul: bool, gallery: Path | None, show: bool
) -> None:
    write_hits(hits, "paths" if nul else form, nul)
    if gallery is None and not show:
        return
    from retrieval.output.gallery import GallerySection, last_gallery, write_gallery

    page = write_gallery(gallery or last_gallery(), [GallerySection(query.terms, hits)])
    print_message(f"Gallery: {page}")
    if show:
        open_page(page)
