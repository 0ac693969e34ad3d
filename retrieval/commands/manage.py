"""`retrieval info`, `remove` and `fuse`: what an index holds, and changes that encode nothing."""

from pathlib import Path
from typing import Annotated

import typer

from retrieval.commands.options import IndexOption, TrustOption
from retrieval.output.terminal import print_result


def info(
    index: IndexOption = None,
    skipped: Annotated[bool, typer.Option("--skipped", help="List every skipped file.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    trust: TrustOption = False,
) -> None:
    """Show what is indexed, what was skipped and what has changed."""
    import retrieval
    from retrieval.output.text import status_json, status_text

    with retrieval.open(index, trust) as photos:
        status = photos.status()
    print_result(status_json(status) if as_json else status_text(status, skipped))


def remove(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(metavar="PATH", help="Photos or folders to remove from the index."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Delete the whole index.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    index: IndexOption = None,
) -> None:
    """Remove photos from the index, or delete the index. Photo files are never touched."""
    import retrieval

    if everything == bool(paths):
        raise retrieval.QueryError(
            "Name the photos or folders to remove, or pass --all to delete the whole index."
        )
    where = retrieval.find_index(index)
    if everything:
        if not yes and not typer.confirm(f"Delete the index {where}? (Your photos stay.)"):
            raise typer.Exit(1)
        retrieval.delete_index(where)
        print_result(f"Deleted the index {where}.")
        return
    count = retrieval.remove(paths or [], where)
    print_result(
        f"Removed {count} file(s) from the index. The next `retrieval index` adds them again "
        "unless you --exclude them."
    )


def fuse(index: IndexOption = None, trust: TrustOption = False) -> None:
    """Fuse photos with their captions again, after `train-fusion`. Nothing is encoded again."""
    import retrieval

    done = retrieval.fuse(index, trust)
    print_result(
        f"Fused {done.photos} photo(s) with their captions by {done.fusion} in {done.folder}."
    )
