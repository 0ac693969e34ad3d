"""`retrieval index`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from retrieval.commands.options import (
    DeviceName,
    EngineName,
    IndexModelOption,
    MilvusName,
    NewIndexOption,
    QuietOption,
    TrustOption,
    VectorsName,
)
from retrieval.output.progress_bar import progress_bar
from retrieval.output.terminal import print_message, print_result

if TYPE_CHECKING:
    from retrieval import ClusterOptions, Options, Report


def index(
    folders: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FOLDER",
            help="Folders of photos; on many machines also URLs, tars, and tables of paths or "
            "URLs. Default: the folders that are in the index.",
        ),
    ] = None,
    index: NewIndexOption = None,
    model: IndexModelOption = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GLOB",
            help="Leave out files and folders of this name or path (repeatable); remembered for "
            "later runs; pass '' to clear.",
        ),
    ] = None,
    include: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GLOB",
            help="Bring in hidden files, and folders of systems such as @eaDir, of this name or "
            "path (repeatable); remembered for later runs; pass '' to clear.",
        ),
    ] = None,
    captions: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="A list of captions: JSON lines, JSON or CSV of image and caption (repeatable); "
            "remembered for later runs; pass '' to clear.",
        ),
    ] = None,
    prune: Annotated[
        bool, typer.Option(help="Forget photos that are missing from disk for good.")
    ] = False,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Encode all photos again, also to change the model.")
    ] = False,
    reread: Annotated[
        bool,
        typer.Option(
            "--reread",
            help="Read dates, places and texts in all photos again. Nothing is encoded again.",
        ),
    ] = False,
    max_megapixels: Annotated[
        float | None,
        typer.Option(min=0.001, help="Skip larger photos. Default: by the free memory."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Threads that decode photos. Default: one per core.")
    ] = None,
    engine: Annotated[
        EngineName,
        typer.Option(help="What runs the model: torch, openvino (CPU only), or auto, the faster."),
    ] = "auto",
    device: Annotated[
        DeviceName,
        typer.Option(
            help="Where the model runs: cpu, cuda, or auto, on the GPU if the model gains from it, "
            "falling back to the CPU if it fails."
        ),
    ] = "auto",
    compile_model: Annotated[
        bool,
        typer.Option("--compile", help="Use torch.compile on a GPU; pays off for many photos."),
    ] = False,
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=4096,
            help="Photos to encode and commit together. Default: 32, or 256 on a GPU.",
        ),
    ] = None,
    vectors: Annotated[
        VectorsName | None,
        typer.Option(
            help="How photos are compared: exact; hnsw, ivf or ivf-pq, which look at some of "
            "them and find 99% of the same; or auto: exact while that takes under 15 ms. "
            "Remembered for later runs."
        ),
    ] = None,
    lake: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="On many machines: the folder or URL that all of them reach, where embeddings are "
            "kept. Remembered by the index.",
        ),
    ] = None,
    ray: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS",
            help="On many machines: the Ray cluster that encodes, such as auto or HOST:6379; or "
            "local, this machine alone.",
        ),
    ] = "local",
    ray_workers: Annotated[
        int | None,
        typer.Option(min=1, help="The most workers on Ray. Default: as many as have room."),
    ] = None,
    worker_cpus: Annotated[
        float | None,
        typer.Option(min=0, help="CPUs of each worker. Default: by the machines."),
    ] = None,
    worker_gpus: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="GPUs of each worker, such as 0.5 if two share one. Default: 1 if there are any.",
        ),
    ] = None,
    milvus_index: Annotated[
        MilvusName | None,
        typer.Option(
            help="How Milvus searches. Default: FLAT, which is exact, up to 100,000 photos, then "
            "HNSW."
        ),
    ] = None,
    rebuild_vectors: Annotated[
        bool,
        typer.Option(
            "--rebuild-vectors", help="Load all vectors into Milvus again. Nothing is encoded."
        ),
    ] = False,
    trust: TrustOption = False,
    quiet: QuietOption = False,
) -> None:
    """Index folders of photos. Run it again whenever they change."""
    import retrieval

    options = retrieval.Options(
        exclude=[pattern for pattern in exclude if pattern] if exclude else None,
        include=[pattern for pattern in include if pattern] if include else None,
        workers=workers,
        max_megapixels=max_megapixels,
        prune=prune,
        rebuild=rebuild,
        compute=retrieval.Compute(engine, device, compile_model),
        batch_size=batch_size,
        captions=[Path(file) for file in captions if file] if captions else None,
        vectors=vectors,
        reread=reread,
    )
    cluster = retrieval.ClusterOptions(
        lake,
        ray,
        retrieval.WorkerSize(ray_workers, worker_cpus, worker_gpus),
        kind=milvus_index,
        rebuild_vectors=rebuild_vectors,
    )
    report = run_index(folders or [], index, model, options, quiet, trust, cluster)
    if not quiet:
        from retrieval.output.text import summary

        print_result(summary(report))


def run_index(
    folders: Sequence[str | Path],
    index: str | Path | None,
    model: str | None,
    options: "Options",
    quiet: bool,
    trust: bool = False,
    cluster: "ClusterOptions | None" = None,
) -> "Report":
    """Index with progress on standard error, as `search --index-first` and `demo` do, too."""
    import retrieval

    log = (lambda _: None) if quiet else print_message
    with progress_bar(quiet) as progress:
        try:
            return retrieval.index(
                *folders,
                index=index,
                model=model,
                options=options,
                progress=progress,
                log=log,
                trust=trust,
                cluster=cluster,
            )
        except KeyboardInterrupt:
            print_message(
                "\nStopped. What was indexed is saved; run the same command again to continue."
            )
            raise typer.Exit(130) from None
