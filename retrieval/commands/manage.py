"""`retrieval info`, `remove` and `fuse`: what an index holds, and changes that encode nothing."""

from pathlib import Path
from typing import Annotated

import typer

from retrieval.commands.options import IndexOption
from retrieval.output.terminal import print_result


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


def fuse(index: IndexOption = None) -> None:
    """Fuse photos with their captions again, after `train-fusion`. Nothing is encoded again."""
    from retrieval import api

    done = api.fuse(index)
    print_result(
        f"Fused {done.photos} photo(s) with their captions by {done.fusion} in {done.folder}."
    )
