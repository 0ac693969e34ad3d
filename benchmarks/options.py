"""Options that several benchmarks have: a name for each, with its help."""

from pathlib import Path
from typing import Annotated

import typer

SplitOption = Annotated[
    str, typer.Option(metavar="S", help="A split of the data set, several joined by +, or all.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
PlotOption = Annotated[
    Path | None, typer.Option("--plot", metavar="FILE.png", help="Also draw a chart.")
]
ModelOption = Annotated[
    str, typer.Option("--model", metavar="M", help="As in `retrieval index --model`.")
]
