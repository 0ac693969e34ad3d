"""Options that several commands take."""

from pathlib import Path
from typing import Annotated, Literal

import typer

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
ImagesOption = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="The photos, if not in a usual place beside captions."),
]
SkipBadOption = Annotated[
    bool, typer.Option("--skip-bad", help="Go on without what is wrong in the data set.")
]
