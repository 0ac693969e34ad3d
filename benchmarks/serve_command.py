"""The command `retrieval benchmark serve`: parse, measure, print. What is measured: `serve`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.options import JsonOption
from retrieval.output.terminal import print_message, print_result


def serve(
    index: Annotated[
        Path | None,
        typer.Argument(
            metavar="INDEX", help="An indexed folder, or an index. Default: 300 photos made for it."
        ),
    ] = None,
    clients: Annotated[int, typer.Option(min=1, max=500, help="Clients that ask at once.")] = 50,
    seconds: Annotated[float, typer.Option(min=0.1, help="Length of each measurement.")] = 10.0,
    k: Annotated[int, typer.Option("-k", min=1, max=200, help="Hits in an answer.")] = 60,
    as_json: JsonOption = False,
) -> None:
    """Measure queries and thumbnails a second of `retrieval serve`.

    Beside the encoder alone. Needs the extra `serve`.
    """
    from benchmarks import serve as benchmark

    found = benchmark.measure(index, clients, seconds, k, print_message)
    print_result(
        json.dumps(benchmark.as_json(found), indent=2) if as_json else benchmark.as_table(found)
    )
