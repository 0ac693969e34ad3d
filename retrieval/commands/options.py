"""Options that several commands take."""

from pathlib import Path
from typing import Annotated, Literal

import typer

IndexOption = Annotated[
    str | None,
    typer.Option(
        "--index",
        metavar="DIR",
        envvar="RETRIEVAL_INDEX",
        help="Folder of the index, or milvus://HOST:PORT/NAME. Default: .retrieval in the working "
        "directory or in the nearest folder above it.",
    ),
]
NewIndexOption = Annotated[
    str | None,
    typer.Option(
        "--index",
        metavar="DIR",
        envvar="RETRIEVAL_INDEX",
        help="Folder of the index, or milvus://HOST:PORT/NAME. Default: .retrieval in the first "
        "FOLDER; without a FOLDER, in the working directory or in the nearest folder above it.",
    ),
]
TrustOption = Annotated[
    bool,
    typer.Option(
        "--trust",
        help="Use an index that was not made on this machine, whatever folders and model it names; "
        "remembered.",
    ),
]
KOption = Annotated[int, typer.Option("-k", min=1, help="The most photos to show.")]
EngineName = Literal["auto", "torch", "openvino"]
DeviceName = Literal["auto", "cpu", "cuda"]
VectorsName = Literal["auto", "exact", "hnsw", "ivf", "ivf-pq"]
MilvusName = Literal["FLAT", "HNSW", "IVF_SQ8", "DISKANN", "GPU_CAGRA"]
Format = Literal["table", "json", "jsonl", "csv", "paths"]
FormatOption = Annotated[Format, typer.Option("--format", "-f", help="How to print the hits.")]
NulOption = Annotated[
    bool, typer.Option("-0", "--null", help="Print paths that end with NUL, for `xargs -0`.")
]
GalleryOption = Annotated[
    Path | None,
    typer.Option("--gallery", metavar="FILE", help="Write the hits as an HTML page of pictures."),
]
OpenOption = Annotated[
    bool, typer.Option("--open", help="Open the page of pictures in the browser.")
]
_MODELS = (
    "mini, base, better, best, multilingual, ARCH:WEIGHTS, ARCH:CHECKPOINT_FILE, "
    "hf-hub:ORG/MODEL, local-dir:FOLDER, a folder made by `retrieval train`, or auto."
)
ModelOption = Annotated[str, typer.Option("--model", metavar="M", help=_MODELS)]
IndexModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="M",
        help=f"{_MODELS} Default: the model of the index; auto for a new index.",
    ),
]
TrainSplitOption = Annotated[
    str | None,
    typer.Option(
        "--split", metavar="S", help="Split to train on. Default: train if there is one, else all."
    ),
]
HeldOutOption = Annotated[
    str | None,
    typer.Option(
        metavar="S",
        help="Split to measure on. Default: val if there is one, else a tenth of the photos.",
    ),
]
QuietOption = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print no messages and no progress, only errors.")
]
ImagesOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="Folder of the photos. Default: the usual places near the captions."
    ),
]
SkipBadOption = Annotated[
    bool,
    typer.Option("--skip-bad", help="Skip photos and captions that cannot be used."),
]
