"""`retrieval train` and `retrieval train-fusion`: what is trained, and where it goes."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from retrieval.commands.options import (
    HeldOutOption,
    ImagesOption,
    QuietOption,
    SkipBadOption,
    TrainSplitOption,
)
from retrieval.output.terminal import print_message, print_result, progress_line


def train(
    dataset: Annotated[
        Path,
        typer.Argument(
            metavar="DATASET", help="Captioned photos, in any format that `benchmark recall` reads."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the new model.")],
    model: Annotated[
        str,
        typer.Option(
            metavar="M", help="Model to start from: mini, or a folder made by this command."
        ),
    ] = "mini",
    tune: Annotated[
        Literal["heads", "top", "all"],
        typer.Option(
            help="Which layers to train. For 6,000 photos, heads takes a minute, top an hour, and "
            "all needs a GPU."
        ),
    ] = "heads",
    epochs: Annotated[int, typer.Option(min=1, help="The most passes over all photos.")] = 16,
    split: TrainSplitOption = None,
    held_out: HeldOutOption = None,
    images: ImagesOption = None,
    skip_bad: SkipBadOption = False,
    texts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="More texts, one a line, whose meaning the new model has to preserve.",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="Set another hyper-parameter (repeatable)."
        ),
    ] = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda"],
        typer.Option(help="Where to train; auto uses a GPU if there is one."),
    ] = "auto",
    seed: Annotated[int, typer.Option(help="The same seed gives the same model.")] = 0,
    quiet: QuietOption = False,
) -> None:
    """Adapt the built-in model to captioned photos.

    Use the new model with `retrieval index --model DIR`. After an interruption, run the same
    command again to continue.
    """
    import retrieval

    options = retrieval.TrainOptions(
        dataset=dataset,
        out=out,
        model=model,
        recipe=retrieval.parse_recipe(tune, epochs, settings or []),
        split=split,
        held_out=held_out,
        images=images,
        skip_bad=skip_bad,
        texts=texts,
        device=device,
        seed=seed,
    )
    progress = (lambda *_: None) if quiet else progress_line()
    log = (lambda _: None) if quiet else print_message
    try:
        done = retrieval.train(options, log, progress)
    except KeyboardInterrupt:
        print_message(
            "\nStopped. Run the same command again to continue after the last complete epoch."
        )
        raise typer.Exit(130) from None
    before, after = (" / ".join(f"{r:.1f}" for r in rs) for rs in (done.before, done.after))
    print_result(
        f"The model in {done.folder}: R@1 / R@5 / R@10 {after} on the held-out photos, {before} "
        f"before training ({done.epochs} epochs)."
    )
    if done.curve:
        print_result(f"Curve: {done.curve}")
    print_result(f"Use it: retrieval index FOLDER --model {done.folder}")


def train_fusion(
    dataset: Annotated[
        Path,
        typer.Argument(
            metavar="DATASET",
            help="Photos with two captions or more, in any format that `benchmark recall` reads.",
        ),
    ],
    model: Annotated[
        str, typer.Option(metavar="M", help="As in `retrieval index --model`.")
    ] = "auto",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            help="File for the fusion. Default: where searches look for it.",
        ),
    ] = None,
    split: TrainSplitOption = None,
    held_out: HeldOutOption = None,
    images: ImagesOption = None,
    skip_bad: SkipBadOption = False,
    seed: Annotated[int, typer.Option(help="The same seed gives the same fusion.")] = 0,
    quiet: QuietOption = False,
) -> None:
    """Train how photos are fused with captions and texts.

    That is how much a photo counts against its captions, and an example photo against words in a
    query. The matching for `search --rerank match` is trained, too. This takes minutes on a CPU.
    Then run `retrieval fuse` for each index of the model.
    """
    import retrieval

    options = retrieval.FusionTrainOptions(
        dataset=dataset,
        model=model,
        out=out,
        split=split,
        held_out=held_out,
        images=images,
        skip_bad=skip_bad,
        seed=seed,
    )
    progress = (lambda *_: None) if quiet else progress_line()
    log = (lambda _: None) if quiet else print_message
    done = retrieval.train_fusion(options, log, progress)
    print_result(
        f"The fusion in {done.file}: R@1 {done.after:.1f} on the held-out photos, over right, "
        f"swapped and missing captions; {done.before:.1f} by the plain mean."
    )
    before, after = done.reranked
    print_result(
        f"Its matching: mean of R@1 and R@5 {after:.1f} re-ranked by it, {before:.1f} without."
    )
    if done.curve:
        print_result(f"Curve: {done.curve}")
    print_result("Use it: retrieval fuse --index DIR")
