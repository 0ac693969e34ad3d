"""`retrieval serve`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from retrieval.commands.index import run_index
from retrieval.commands.options import IndexOption, TrustOption
from retrieval.output.terminal import print_message, print_result

if TYPE_CHECKING:
    from retrieval import Address


def serve(
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="FOLDER",
            help="An indexed folder of photos. Default: the index of --index.",
        ),
    ] = None,
    index: IndexOption = None,
    host: Annotated[
        str,
        typer.Option(
            metavar="H",
            help="Where to listen: 0.0.0.0 for other machines, too, which then need a token.",
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="The port; 0 takes one that is free.")
    ] = 8000,
    watch: Annotated[
        bool, typer.Option("--watch", help="Index the folders whenever they change.")
    ] = False,
    index_first: Annotated[
        bool, typer.Option("--index-first", help="First make the index, or bring it up to date.")
    ] = False,
    show: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    token: Annotated[
        bool, typer.Option("--token", help="Ask for a token on this machine, too.")
    ] = False,
    new_token: Annotated[
        bool, typer.Option("--new-token", help="Replace the token by a new one, and print it.")
    ] = False,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Another name by which browsers reach the server, such as that of a proxy "
            "(repeatable).",
        ),
    ] = None,
    trust: TrustOption = False,
) -> None:
    """Open the page to search photos on, with an API for programs.

    Only this machine can connect unless --host says otherwise. Needs the extra `serve`.
    """
    import retrieval

    options = retrieval.ServeOptions(
        host, port, token or new_token, new_token, watch, tuple(allow_host or ())
    )
    where = folder if folder is not None else index
    if index_first:
        run_index(
            [folder] if folder else [],
            None if index is None else Path(index),
            None,
            retrieval.Options(),
            False,
            trust,
        )

    def ready(address: "Address") -> None:
        print_result(f"Photos: {address.page}")
        if address.token:
            print_message(
                "The address has the token, which is not printed again; --new-token replaces it."
            )
        elif options.needs_token:
            print_message("A token is needed: the one that was printed when it was made.")
        print_message("Ctrl-C ends the server.")
        if show:
            import webbrowser

            webbrowser.open(address.page)

    retrieval.serve(where, options, trust, ready)
